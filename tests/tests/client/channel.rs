//! SCRAM bound to the TLS channel: nobody in the middle.

use anyhow::Result;
use harness::Installation;
use harness::certificates::{Key, Kind};
use proto::client::Error;

use crate::every_version;
use crate::middle::{Middle, Offer};
use crate::scene::{Encrypted, denied, encrypted};

every_version!(scram_is_bound_to_the_channel, a_man_in_the_middle_is_found_out);

fn scram_is_bound_to_the_channel(installation: &Installation) -> Result<()> {
    let Some(scene) = Encrypted::or_skip(installation)? else { return Ok(()) };
    let all = &scene.certificates;
    all.issue("p256", "localhost", Kind::default())?;
    all.issue("rsa512", "localhost", Kind { key: Key::Rsa, digest: "sha512", ..Kind::default() })?;
    all.self_signed("p384", "localhost", Kind { key: Key::P384, digest: "sha384", ..Kind::default() })?;
    for name in ["p256", "rsa512", "p384"] {
        scene.serve(name)?;
        for binding in ["require", "prefer", "disable"] {
            encrypted(&scene.to(&format!("sslmode=require channel_binding={binding}")));
        }
        encrypted(&scene.to("sslmode=require channel_binding=require ssl_max_protocol_version=TLSv1.2"));
    }
    if installation.major >= 17 {
        encrypted(&scene.to("sslmode=require sslnegotiation=direct channel_binding=require"));
    }
    for more in
        ["sslmode=disable channel_binding=require", "sslmode=require channel_binding=require user=md5_user"]
    {
        let error = denied(&scene.to(more));
        assert!(matches!(error, Error::Authentication { .. }), "{more}: {error}");
    }
    // The signature of such a certificate has no digest of its own.
    all.self_signed("ed25519", "localhost", Kind { key: Key::Ed25519, ..Kind::default() })?;
    scene.serve("ed25519")?;
    encrypted(&scene.to("sslmode=require"));
    let error = denied(&scene.to("sslmode=require channel_binding=require"));
    assert!(matches!(error, Error::Authentication { .. }), "{error}");
    Ok(())
}

/// Somebody whose certificate nobody looks at, between us and the server.
fn a_man_in_the_middle_is_found_out(installation: &Installation) -> Result<()> {
    let Some(scene) = Encrypted::or_skip(installation)? else { return Ok(()) };
    let all = &scene.certificates;
    all.issue("right", "localhost", Kind::default())?;
    all.self_signed("impostor", "localhost", Kind::default())?;
    scene.serve("right")?;
    let server = scene.scene.server.port();
    let through = |offer: Offer, more: &str| -> Result<String> {
        let middle = Middle::start(server, all, "impostor", offer)?;
        let text = scene.to(more);
        Ok(text.replace(&format!("port={server}"), &format!("port={}", middle.port())))
    };

    // Without binding he is not seen: so he does relay.
    encrypted(&through(Offer::AsItIs, "sslmode=require channel_binding=disable")?);
    // Bound, the server sees that we talk to another certificate.
    for binding in ["prefer", "require"] {
        let more = format!("sslmode=require channel_binding={binding}");
        let error = denied(&through(Offer::AsItIs, &more)?);
        assert!(matches!(error, Error::Server { .. }) && error.to_string().contains("channel"), "{error}");
    }
    // With the better offer taken away the server hears that we never got it, or we refuse ourselves.
    let error = denied(&through(Offer::WithoutBinding, "sslmode=require")?);
    assert!(matches!(error, Error::Server { .. }) && error.to_string().contains("channel"), "{error}");
    let error = denied(&through(Offer::WithoutBinding, "sslmode=require channel_binding=require")?);
    assert!(matches!(error, Error::Authentication { .. }), "{error}");
    // And whoever looks at certificates never talks to him.
    let error = denied(&through(Offer::AsItIs, &format!("sslmode=verify-full {}", scene.root("ca")))?);
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    Ok(())
}
