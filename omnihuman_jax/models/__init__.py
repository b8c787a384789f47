"""The networks: parameters in, arrays out. Each file ends with the names its tensors have in torch."""
