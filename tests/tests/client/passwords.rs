//! Proving who we are by a password, and what is said when that fails.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use harness::Installation;
use harness::Port;
use proto::client::{Error, sql};
use proto::conninfo::ConnInfo;

use crate::every_version;
use crate::scene::{Scene, connect, info, refused, soon};

every_version!(passwords_are_proven_by_every_method);

fn passwords_are_proven_by_every_method(installation: &Installation) -> Result<()> {
    let scene = Scene::start(installation, &[])?;
    let users = [
        ("postgres", "scram-sha-256"),
        ("md5_user", "md5"),
        ("clear_user", "password"),
        ("ident_user", "none"),
    ];
    for (user, method) in users {
        let text = scene.tcp(user, "secret");
        soon(sql(&info(&text), "live"))?;
        for text in [text.clone(), format!("{text} require_auth={method}")] {
            connect(&text)?;
        }
        for more in [format!("require_auth=!{method}"), "channel_binding=require".to_owned()] {
            let text = format!("{text} {more}");
            assert!(matches!(refused(&text), Error::Authentication { .. }), "{text}");
            let error = soon(sql(&info(&text), "live")).map(drop).expect_err(&text);
            assert!(matches!(error, Error::Authentication { .. }), "{text}: {error}");
        }
        if method != "none" {
            let error = refused(&scene.tcp(user, "guesswork"));
            assert_eq!(error.sqlstate(), Some("28P01"), "{user}: {error}");
            assert!(!format!("{error} {error:?}").contains("guesswork"), "{error:?}");
            let error = refused(&scene.tcp(user, ""));
            assert!(matches!(error, Error::Authentication { .. }), "{user}: {error}");
        }
    }
    refusals_say_what_to_do(&scene)?;
    files_give_what_the_text_leaves_out(&scene)
}

fn refusals_say_what_to_do(scene: &Scene) -> Result<()> {
    let hint = refused(&scene.tcp("no_line", "secret")).hint().expect("a hint");
    assert!(hint.ends_with("host replication no_line 127.0.0.1/32 scram-sha-256"), "{hint}");
    let error = refused(&scene.tcp("no_repl", "secret"));
    assert_eq!(error.hint().as_deref(), Some("run on the server: ALTER ROLE no_repl REPLICATION"));

    let nobody = Port::reserve()?;
    let error = refused(&format!("host=127.0.0.1 port={nobody} user=x"));
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error}");
    let error = refused("host=/nowhere user=x");
    assert!(error.hint().expect("a hint").contains("unix_socket_directories"));
    let error = refused("host=no-such-host.invalid user=x");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    Ok(())
}

fn files_give_what_the_text_leaves_out(scene: &Scene) -> Result<()> {
    let home = scene.world.folder("home")?;
    let port = scene.server.port();
    let (passfile, services) = (home.join("passwords"), home.join("services"));
    fs::write(&services, format!("[main]\nhost=127.0.0.1\nport={port}\nuser=clear_user\ndbname=postgres\n"))?;
    fs::write(&passfile, format!("127.0.0.1:{port}:*:clear_user:secret\n*:*:*:*:not-this-one\n"))?;
    let set_mode = |mode| fs::set_permissions(&passfile, Permissions::from_mode(mode));
    let main = format!("service=main servicefile={} passfile={}", services.display(), passfile.display());
    let malformed = |text: &str| ConnInfo::resolve(text).expect_err(text).to_string();

    set_mode(0o600)?;
    connect(&main)?;
    soon(sql(&info(&main), "live"))?;
    // Its second line is for everybody else, and wrong.
    let error = refused(&format!("{main} user=md5_user"));
    assert_eq!(error.sqlstate(), Some("28P01"), "{error}");
    let error = malformed(&main.replace("service=main", "service=other"));
    assert!(error.contains("\"other\""), "{error}");

    set_mode(0o644)?;
    let error = malformed(&main);
    assert!(error.contains("home/passwords") && error.contains("0600"), "{error}");
    connect(&format!("{main} password=secret"))?;

    fs::write(&passfile, "127.0.0.1:secret\n")?;
    set_mode(0o600)?;
    let error = malformed(&main);
    assert!(error.contains("home/passwords") && error.contains("line 1"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    Ok(())
}
