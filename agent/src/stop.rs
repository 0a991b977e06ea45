//! Being asked to stop.

use tokio::sync::watch;

/// Waits until the value becomes true, or nobody is left who could set it.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Both outcomes mean the same.
    let _ = stop.wait_for(|stop| *stop).await;
}
