"""What every answer and every backend shares."""
