"""Local memory: the banked vector memory and the accumulators, behind one arbitrated crossbar."""
