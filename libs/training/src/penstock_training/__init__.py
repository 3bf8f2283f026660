"""Training: trainers, ONNX export, MLflow tracking and publication to the model server."""
