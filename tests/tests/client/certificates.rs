//! Certificates of every make: the server's, and ours.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use harness::Installation;
use harness::certificates::{Key, Kind, LOCALHOST};
use proto::client::Error;

use crate::every_version;
use crate::scene::{Encrypted, connect, denied, encrypted, refused, tls_error};

every_version!(a_server_may_show_certificates_of_several_makes, a_client_certificate_proves_who_we_are);

fn a_server_may_show_certificates_of_several_makes(installation: &Installation) -> Result<()> {
    let Some(scene) = Encrypted::or_skip(installation)? else { return Ok(()) };
    // The very certificate that is trusted.
    scene.certificates.self_signed("own", "localhost", Kind::default())?;
    scene.serve("own")?;
    let other = scene.root("other");
    for mode in ["require", "verify-ca", "verify-full"] {
        encrypted(&scene.to(&format!("sslmode={mode} {}", scene.root("own"))));
        tls_error(&scene.to(&format!("sslmode={mode} {other}")), "authority");
    }
    let elsewhere =
        scene.host("db.example", "postgres", &format!("sslmode=verify-full {}", scene.root("own")));
    tls_error(&elsewhere, "another host name");

    // Version 1, as PostgreSQL's manual had it made.
    let old = Kind { key: Key::Rsa, extensions: "", ..Kind::default() };
    scene.certificates.issue("old", "localhost", old)?;
    scene.serve("old")?;
    let ca = scene.root("ca");
    encrypted(&scene.to("sslmode=require channel_binding=require"));
    for mode in ["verify-ca", "verify-full"] {
        encrypted(&scene.to(&format!("sslmode={mode} {ca}")));
        tls_error(&scene.to(&format!("sslmode={mode} {other}")), "authority");
    }
    let elsewhere = scene.host("db.example", "postgres", &format!("sslmode=verify-full {ca}"));
    tls_error(&elsewhere, "another host name");
    // An authority of the right name with another key.
    scene.certificates.self_signed("impostor", "ca", old)?;
    tls_error(&scene.to(&format!("sslmode=verify-ca {}", scene.root("impostor"))), "authority");
    // Time counts for these, too.
    scene.certificates.issue("late", "localhost", Kind { expired: true, ..old })?;
    scene.serve("late")?;
    tls_error(&scene.to(&format!("sslmode=verify-ca {ca}")), "has expired");
    Ok(())
}

fn a_client_certificate_proves_who_we_are(installation: &Installation) -> Result<()> {
    let Some(scene) = Encrypted::or_skip(installation)? else { return Ok(()) };
    let all = &scene.certificates;
    let ours = Kind { extensions: "extendedKeyUsage=clientAuth", ..Kind::default() };
    all.issue("right", "localhost", Kind { extensions: LOCALHOST, ..Kind::default() })?;
    all.issue("client", "cert_user", ours)?;
    all.issue("someone", "someone_else", ours)?;
    all.issue("late", "cert_user", Kind { expired: true, ..ours })?;
    all.self_signed("foreign", "cert_user", Kind { extensions: "", ..ours })?;
    scene.serve("right")?;
    let with = |certificate: &str, key: &str| {
        let path = |file: String| all.path(&file).display().to_string();
        let files =
            format!("sslcert={} sslkey={}", path(format!("{certificate}.crt")), path(format!("{key}.key")));
        scene.host("localhost", "cert_user", &format!("sslmode=verify-full {} {files}", scene.root("ca")))
    };
    encrypted(&with("client", "client"));
    connect(&format!("{} require_auth=none", with("client", "client")))?;
    if installation.major >= 17 {
        encrypted(&format!("{} sslnegotiation=direct", with("client", "client")));
    }
    // The server answers to these.
    let error = denied(&scene.host("localhost", "cert_user", "sslmode=require"));
    assert_eq!(error.sqlstate(), Some("28000"), "no certificate: {error}");
    let error = denied(&with("someone", "someone"));
    assert_eq!(error.sqlstate(), Some("28000"), "another user's certificate: {error}");
    for (name, alert) in [("foreign", "UnknownCA"), ("late", "CertificateExpired")] {
        let error = refused(&with(name, name));
        assert!(matches!(&error, Error::Tls { why, .. } if why.contains(alert)), "{name}: {error}");
    }
    // These never leave us.
    let error = refused(&with("client", "foreign"));
    assert!(matches!(&error, Error::Config(why) if why.contains("together")), "{error}");
    fs::copy(all.path("client.crt"), all.path("none.key"))?;
    fs::set_permissions(all.path("none.key"), Permissions::from_mode(0o600))?;
    let error = refused(&with("client", "none"));
    assert!(matches!(&error, Error::Config(why) if why.contains("no private key")), "{error}");
    fs::set_permissions(all.path("client.key"), Permissions::from_mode(0o644))?;
    let error = refused(&with("client", "client"));
    assert!(error.to_string().contains("0600"), "{error}");
    Ok(())
}
