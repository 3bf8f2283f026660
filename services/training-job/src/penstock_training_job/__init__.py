"""The training job: rows, model, canary, verdict. Runs apart from the service, as a Ray job."""
