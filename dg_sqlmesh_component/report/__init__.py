"""What a run or tick reports about its models. Pure."""
