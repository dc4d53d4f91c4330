"""cocotb testbenches of the whole core."""
