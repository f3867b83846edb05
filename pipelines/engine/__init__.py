"""What every Ray job shares: cluster, pools, guard, ledger, progress, provenance."""
