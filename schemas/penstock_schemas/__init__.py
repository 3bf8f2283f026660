"""Contracts of Penstock: Avro schemas, topic names, headers, codec and the error tree.

Pure: nothing here talks to Kafka or to the network.
"""
