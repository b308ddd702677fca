//! Implementations of the outward ports: clouds, vaults, notifiers, probes.
