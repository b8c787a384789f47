"""The mathematics of training and sampling, on functions: it knows no network."""
