//! Vaults.
