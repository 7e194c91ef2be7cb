"""gRPC of the Open Inference Protocol on the maintained front."""
