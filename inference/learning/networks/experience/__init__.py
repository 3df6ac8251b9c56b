"""What networks see of a world, the copies of it that are stepped, and the buffer that keeps what was met."""
