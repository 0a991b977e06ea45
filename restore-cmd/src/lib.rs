//! restore-cmd
