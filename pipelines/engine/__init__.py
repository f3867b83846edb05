"""What every Ray job shares: cluster, pools, ledger, guard, progress, provenance."""
