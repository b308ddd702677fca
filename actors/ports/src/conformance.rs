//! One suite per port; every implementation runs all of it.
