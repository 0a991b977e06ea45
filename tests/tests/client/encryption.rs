//! Whether a connection is encrypted, and whom we believe.

use anyhow::Result;
use harness::Installation;
use harness::certificates::Kind;
use proto::client::Error;

use crate::every_version;
use crate::scene::{Encrypted, connect, denied, encrypted, in_clear, refused, tls_error};

every_version!(each_sslmode_does_what_it_says, the_second_choice_is_tried_where_pg_hba_refuses_the_first);

fn each_sslmode_does_what_it_says(installation: &Installation) -> Result<()> {
    let Some(scene) = Encrypted::or_skip(installation)? else { return Ok(()) };
    // A server without TLS.
    in_clear(&scene.to("sslmode=prefer"));
    in_clear(&scene.to("sslmode=allow"));
    tls_error(&scene.to("sslmode=require"), "does not offer");
    tls_error(&scene.to(&format!("sslmode=verify-full {}", scene.root("ca"))), "does not offer");

    scene.certificates.issue("right", "whatever", Kind::default())?;
    scene.serve("right")?;
    let (ca, other) = (scene.root("ca"), scene.root("other"));
    in_clear(&scene.to("sslmode=disable"));
    in_clear(&scene.to("sslmode=allow"));
    for more in ["sslmode=prefer", "sslmode=require", "", "sslmode=require ssl_max_protocol_version=TLSv1.2"]
    {
        encrypted(&scene.to(more));
    }
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        encrypted(&scene.to(&format!("sslmode={mode} {ca}")));
    }
    in_clear(&scene.to(&format!("sslmode=prefer {other}")));
    for mode in ["require", "verify-ca", "verify-full"] {
        tls_error(&scene.to(&format!("sslmode={mode} {other}")), "was not issued by an authority");
    }
    match denied(&scene.to("sslrootcert=system")) {
        Error::Tls { why, .. } => assert!(why.contains("was not issued by an authority"), "{why}"),
        // A machine that trusts nobody says so.
        Error::Config(why) => assert!(why.contains("ca-certificates"), "{why}"),
        error => panic!("{error}"),
    }

    // Names count for verify-full only.
    encrypted(&scene.host("db.example", "postgres", &format!("sslmode=verify-ca {ca}")));
    let elsewhere = scene.host("db.example", "postgres", &format!("sslmode=verify-full {ca}"));
    tls_error(&elsewhere, "another host name");
    encrypted(&scene.host("127.0.0.1", "postgres", &format!("sslmode=verify-full {ca}")));
    encrypted(&scene.to(&format!("sslmode=verify-full sslsni=0 {ca}")));

    // A server before 17 takes direct TLS for nonsense.
    let direct = scene.to(&format!("sslmode=verify-full sslnegotiation=direct {ca}"));
    if installation.major >= 17 {
        encrypted(&direct);
        let elsewhere = format!("sslmode=verify-full sslnegotiation=direct {ca}");
        tls_error(&scene.host("db.example", "postgres", &elsewhere), "another host name");
    } else {
        tls_error(&direct, "before 17");
    }
    for missing in ["sslmode=require sslrootcert=/nowhere", "sslmode=verify-full sslrootcert=/nowhere"] {
        let error = denied(&scene.to(missing));
        assert!(matches!(&error, Error::Config(why) if why.contains("/nowhere")), "{error}");
    }

    scene.certificates.issue("late", "localhost", Kind { expired: true, ..Kind::default() })?;
    scene.serve("late")?;
    encrypted(&scene.to("sslmode=require"));
    for mode in ["require", "verify-ca", "verify-full"] {
        tls_error(&scene.to(&format!("sslmode={mode} {ca}")), "has expired");
    }
    in_clear(&scene.to(&format!("sslmode=prefer {ca}")));
    Ok(())
}

fn the_second_choice_is_tried_where_pg_hba_refuses_the_first(installation: &Installation) -> Result<()> {
    let Some(scene) = Encrypted::or_skip(installation)? else { return Ok(()) };
    scene.certificates.issue("right", "localhost", Kind::default())?;
    scene.serve("right")?;
    for (user, modes) in [("tls_only", [false, true, true, true]), ("clear_only", [true, true, true, false])]
    {
        for (mode, welcome) in ["disable", "allow", "prefer", "require"].into_iter().zip(modes) {
            let text = scene.host("localhost", user, &format!("sslmode={mode}"));
            if welcome {
                connect(&text)?;
            } else {
                let error = refused(&text);
                assert!(error.hint().is_some_and(|hint| hint.contains(user)), "{user} {mode}: {error}");
            }
        }
    }
    Ok(())
}
