"""Train, tune, compare, promote and use autoencoders on images, on a schedule."""

# Models that were registered before 0.2 bring a file that imports modules by their former names.
__path__ = [*__path__, f"{__path__[0]}/former"]
