"""What a host program imports to use a Lepton NPU."""
