"""Vector unit: T lanes of binary32 over rows of the local memory."""
