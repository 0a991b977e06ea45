//! Another user of the database's host.
