"""What commands say, from objects alone."""
