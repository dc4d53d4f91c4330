"""Bus interfaces: AXI signatures."""
