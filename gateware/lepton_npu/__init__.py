"""The Lepton NPU in Amaranth HDL."""
