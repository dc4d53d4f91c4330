"""Verification of the Lepton NPU: golden model, bus agents, testbenches. Imports of the gateware: `lepton_npu.spec` only."""
