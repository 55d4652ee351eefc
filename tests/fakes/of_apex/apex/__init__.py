"""A stand-in for NVIDIA apex on the CPU, which holds its users to the documented order of calls."""
