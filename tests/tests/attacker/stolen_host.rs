//! Somebody who has the database's host as it is at rest, without the server's own files: its configuration with the
//! metadata identity, the signing key and the store's credentials.

use anyhow::{Result, ensure};
use harness::Holder;

use crate::scene::Scene;

#[test]
fn the_backups_stay_closed() -> Result<()> {
    let Some(mut scene) = Scene::or_skip()? else { return Ok(()) };
    // Lists and verifies, as the host does every day.
    ensure!(scene.host.labels()?.len() == 2);
    let quick = scene.host.walkeep(&["verify", "--json"])?.ok()?.json()?;
    ensure!(quick["ok"] == true, "{quick:#}");
    // Reads no content, and says so.
    let deep = scene.host.walkeep(&["verify", "--deep", "--json"])?.ok()?.json()?;
    let closed = crate::scene::found(&deep, "warning", "were not read");
    ensure!(closed.len() == 1 && closed[0].contains("is encrypted"), "{deep:#}");
    let target = scene.world.at("stolen");
    let refused = scene.host.restore(&target, &[])?;
    ensure!(refused.code == Some(1), "{refused:?}");
    ensure!(refused.stderr.contains("none of the configured identities opens it"), "{refused:?}");
    ensure!(scene.host.walkeep(&["find"])?.code == Some(1));

    // Without even the metadata identity a host still writes, and what is there stays closed to it.
    scene.host.hold(&scene.world, Holder::BlindHost)?;
    scene.host.set("encryption", "metadata_identity_file", "\"/nowhere\"")?;
    let refused = scene.host.walkeep(&["list"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("/nowhere"), "{refused:?}");
    Ok(())
}
