"""What training, monitoring and judges share: references, losses, quality, label join. Pure."""
