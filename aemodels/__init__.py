"""Train, tune, compare, promote and use autoencoders on images."""
