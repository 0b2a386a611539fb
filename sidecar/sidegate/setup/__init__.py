"""What `sidegate setup` makes and checks in the target itself, so that it lets its gate in and nobody else past it."""
