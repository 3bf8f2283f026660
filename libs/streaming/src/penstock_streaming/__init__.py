"""The Kafka loop: consume, handle, produce and commit, exactly once.

`processor.Processor` owns consumer, producer and transaction; a service gives it a
`handler.Handler`. Import from the modules: nothing is re-exported here.
"""
