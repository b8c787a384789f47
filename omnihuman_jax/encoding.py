"""Raw frames, sound and text → what the networks make of them, as the functions that `data` asks for."""
