"""What is kept: facts in a registry, bytes by digest, states of running phases."""
