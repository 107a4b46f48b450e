"""One training in several processes, that torchrun or accelerate starts."""
