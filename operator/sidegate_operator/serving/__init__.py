"""What the operator's listeners have in common: an authority of their own with its rotation, certificates, and TLS."""
