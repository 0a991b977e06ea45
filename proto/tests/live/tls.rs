//! TLS against a real PostgreSQL 15, with certificates of every sort that servers have.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proto::client::{Error, Replication, SessionOptions, sql};
use proto::conninfo::ConnInfo;
use tempfile::TempDir;

use super::cluster::{Cluster, run};

/// A directory of certificates and keys, made with the program `openssl`.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: there is no program openssl");
            return None;
        }
        let all = Self(TempDir::new().expect("a directory"));
        for authority in ["ca", "other"] {
            all.self_signed(authority, &format!("/CN={authority}"), &["-newkey", "rsa:2048"]);
        }
        Some(all)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, command: &str, more: &[&str]) {
        run(Command::new("openssl").current_dir(self.0.path()).args(command.split_whitespace()).args(more));
    }

    fn self_signed(&self, name: &str, subject: &str, more: &[&str]) {
        let command = format!("req -x509 -nodes -days 2 -keyout {name}.key -out {name}.crt -subj {subject}");
        self.openssl(&command, more);
    }

    /// Signed by `ca`. With no `extensions` it is of version 1, as OpenSSL up to 3.1 makes it.
    fn issued(&self, name: &str, common_name: &str, extensions: &str, key: &[&str], digest: &str) {
        let request = format!("req -new -nodes -keyout {name}.key -out {name}.csr -subj /CN={common_name}");
        self.openssl(&request, key);
        let sign = format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out {name}.crt"
        );
        if extensions.is_empty() {
            self.openssl(&sign, &[digest]);
        } else {
            fs::write(self.path("extensions"), extensions).expect("written");
            self.openssl(&sign, &[digest, "-extfile", "extensions"]);
        }
    }

    fn client_key(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(&format!("{name}.key"));
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
        path
    }
}

fn serve(cluster: &mut Cluster, certificates: &Certificates, name: &str) {
    cluster.install("server.crt", &certificates.path(&format!("{name}.crt")));
    cluster.install("server.key", &certificates.path(&format!("{name}.key")));
    cluster.restart();
}

/// Opens both kinds of session; whether they are encrypted.
async fn try_both(text: &str) -> Result<bool, Error> {
    let info = ConnInfo::resolve(text).expect(text);
    let mut session = Replication::connect(&info, &SessionOptions::default()).await?;
    session.identify_system().await?;
    session.close().await;
    let client = sql(&info, "tls").await?;
    let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(client.query_one(query, &[]).await.expect("an answer").get(0))
}

async fn encrypted(text: &str) {
    match try_both(text).await {
        Ok(encrypted) => assert!(encrypted, "in clear: {text}"),
        Err(error) => panic!("{text}: {error}"),
    }
}

async fn in_clear(text: &str) {
    match try_both(text).await {
        Ok(encrypted) => assert!(!encrypted, "encrypted: {text}"),
        Err(error) => panic!("{text}: {error}"),
    }
}

async fn tls_error(text: &str, why: &str) {
    match try_both(text).await {
        Err(Error::Tls { why: found, .. }) => assert!(found.contains(why), "{text}: {found}"),
        Err(error) => panic!("{text}: {error}"),
        Ok(_) => panic!("accepted: {text}"),
    }
}

struct Scene {
    cluster: Cluster,
    certificates: Certificates,
}

impl Scene {
    fn new() -> Option<Self> {
        let certificates = Certificates::new()?;
        Some(Self { cluster: Cluster::start("")?, certificates })
    }

    fn serve(&mut self, name: &str) {
        self.cluster.configure("ssl = on\n");
        serve(&mut self.cluster, &self.certificates, name);
    }

    fn host(&self, host: &str, user: &str, more: &str) -> String {
        let port = self.cluster.port;
        format!(
            "host={host} hostaddr=127.0.0.1 port={port} user={user} password=secret dbname=postgres {more}"
        )
    }

    fn to(&self, more: &str) -> String {
        self.host("localhost", "postgres", more)
    }

    fn root(&self, name: &str) -> String {
        format!("sslrootcert={}", self.path(name).display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.certificates.path(name)
    }
}

const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";
const RSA: &[&str] = &["-newkey", "rsa:2048"];

#[tokio::test]
async fn each_sslmode_does_what_it_says() {
    let Some(mut scene) = Scene::new() else { return };
    // A server without TLS.
    in_clear(&scene.to("sslmode=prefer")).await;
    in_clear(&scene.to("sslmode=allow")).await;
    tls_error(&scene.to("sslmode=require"), "does not offer").await;

    scene.certificates.issued("server", "whatever", NAMES, RSA, "-sha256");
    scene.serve("server");
    let (ca, other) = (scene.root("ca.crt"), scene.root("other.crt"));
    in_clear(&scene.to("sslmode=disable")).await;
    in_clear(&scene.to("sslmode=allow")).await;
    for more in ["sslmode=prefer", "sslmode=require", "", "sslmode=require ssl_max_protocol_version=TLSv1.2"]
    {
        encrypted(&scene.to(more)).await;
    }
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        encrypted(&scene.to(&format!("sslmode={mode} {ca}"))).await;
    }
    in_clear(&scene.to(&format!("sslmode=prefer {other}"))).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        tls_error(&scene.to(&format!("sslmode={mode} {other}")), "was not issued by an authority").await;
    }
    tls_error(&scene.to("sslrootcert=system"), "was not issued by an authority").await;

    // Names count for verify-full only.
    encrypted(&scene.host("db.example", "postgres", &format!("sslmode=verify-ca {ca}"))).await;
    tls_error(
        &scene.host("db.example", "postgres", &format!("sslmode=verify-full {ca}")),
        "another host name",
    )
    .await;
    encrypted(&scene.host("127.0.0.1", "postgres", &format!("sslmode=verify-full {ca}"))).await;
    encrypted(&scene.to(&format!("sslmode=verify-full sslsni=0 {ca}"))).await;

    // A server of version 15 takes direct TLS for nonsense.
    tls_error(&scene.to("sslmode=require sslnegotiation=direct"), "before 17").await;
    let missing = try_both(&scene.to("sslmode=require sslrootcert=/nowhere")).await;
    assert!(matches!(missing, Err(Error::Config(_))));
}

async fn replicates(text: &str) -> Result<(), Error> {
    let info = ConnInfo::resolve(text).expect(text);
    Replication::connect(&info, &SessionOptions::default()).await.map(drop)
}

#[tokio::test]
async fn the_second_choice_is_tried_where_pg_hba_refuses_the_first() {
    let Some(mut scene) = Scene::new() else { return };
    scene.certificates.issued("server", "whatever", NAMES, RSA, "-sha256");
    scene.serve("server");
    let expect = |user: &'static str, mode: &'static str, ok: bool| {
        let text = scene.host("localhost", user, &format!("sslmode={mode}"));
        async move {
            match replicates(&text).await {
                Ok(()) => assert!(ok, "{user} {mode}"),
                Err(error) => {
                    assert!(!ok && error.hint().expect("a hint").contains(user), "{user} {mode}: {error}")
                }
            }
        }
    };
    for (user, modes) in [("tls_only", [false, true, true, true]), ("clear_only", [true, true, true, false])]
    {
        for (mode, ok) in ["disable", "allow", "prefer", "require"].into_iter().zip(modes) {
            expect(user, mode, ok).await;
        }
    }
}

#[tokio::test]
async fn scram_is_bound_to_the_channel() {
    let Some(mut scene) = Scene::new() else { return };
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"];
    scene.certificates.issued("rsa256", "localhost", NAMES, RSA, "-sha256");
    scene.certificates.issued("rsa512", "localhost", NAMES, RSA, "-sha512");
    scene.certificates.issued("rsa384", "localhost", NAMES, &ec, "-sha384");
    scene.certificates.self_signed("ec", "/CN=localhost", &[&ec[..], &["-sha384"]].concat());
    for name in ["rsa256", "rsa384", "rsa512", "ec"] {
        scene.serve(name);
        for binding in ["require", "prefer", "disable"] {
            encrypted(&scene.to(&format!("sslmode=require channel_binding={binding}"))).await;
        }
        let text = scene.to("sslmode=require channel_binding=require ssl_max_protocol_version=TLSv1.2");
        encrypted(&text).await;
    }
    for more in
        ["sslmode=disable channel_binding=require", "sslmode=require channel_binding=require user=md5_user"]
    {
        let refused = try_both(&scene.to(more)).await;
        assert!(matches!(refused, Err(Error::Authentication { .. })), "{more}");
    }
    // The signature of such a certificate has no digest of its own.
    scene.certificates.self_signed("ed25519", "/CN=localhost", &["-newkey", "ed25519"]);
    scene.serve("ed25519");
    encrypted(&scene.to("sslmode=require")).await;
    let refused = try_both(&scene.to("sslmode=require channel_binding=require")).await;
    assert!(matches!(refused, Err(Error::Authentication { .. })));
}

#[tokio::test]
async fn a_servers_own_certificate_can_be_the_trusted_one() {
    let Some(mut scene) = Scene::new() else { return };
    scene.certificates.self_signed("own", "/CN=localhost", &[RSA, &["-addext", NAMES]].concat());
    scene.serve("own");
    for mode in ["require", "verify-ca", "verify-full"] {
        encrypted(&scene.to(&format!("sslmode={mode} {}", scene.root("own.crt")))).await;
        tls_error(&scene.to(&format!("sslmode={mode} {}", scene.root("other.crt"))), "authority").await;
    }
    let elsewhere =
        scene.host("db.example", "postgres", &format!("sslmode=verify-full {}", scene.root("own.crt")));
    tls_error(&elsewhere, "another host name").await;
}

#[tokio::test]
async fn certificates_of_version_1_are_checked_too() {
    let Some(mut scene) = Scene::new() else { return };
    scene.certificates.issued("old", "localhost", "", RSA, "-sha256");
    scene.serve("old");
    let (ca, other) = (scene.root("ca.crt"), scene.root("other.crt"));
    encrypted(&scene.to("sslmode=require channel_binding=require")).await;
    for mode in ["verify-ca", "verify-full"] {
        encrypted(&scene.to(&format!("sslmode={mode} {ca}"))).await;
        tls_error(&scene.to(&format!("sslmode={mode} {other}")), "authority").await;
    }
    let elsewhere = scene.host("db.example", "postgres", &format!("sslmode=verify-full {ca}"));
    tls_error(&elsewhere, "another host name").await;
    // An authority of the right name with another key.
    scene.certificates.self_signed("impostor", "/CN=ca", RSA);
    tls_error(&scene.to(&format!("sslmode=verify-ca {}", scene.root("impostor.crt"))), "authority").await;
}

#[tokio::test]
async fn a_client_certificate_proves_who_we_are() {
    let Some(mut scene) = Scene::new() else { return };
    scene.certificates.issued("server", "localhost", NAMES, RSA, "-sha256");
    scene.certificates.issued("client", "cert_user", "extendedKeyUsage=clientAuth", RSA, "-sha256");
    scene.cluster.install("root.crt", &scene.path("ca.crt"));
    scene.cluster.configure("ssl_ca_file = 'root.crt'\n");
    scene.serve("server");
    let with = |key: &Path, certificate: &str| {
        let files = format!("sslcert={} sslkey={}", scene.path(certificate).display(), key.display());
        scene.host("localhost", "cert_user", &format!("sslmode=verify-full {} {files}", scene.root("ca.crt")))
    };
    let key = scene.certificates.client_key("client", 0o600);
    replicates(&with(&key, "client.crt")).await.expect("let in");
    replicates(&format!("{} require_auth=none", with(&key, "client.crt"))).await.expect("let in");
    let error = replicates(&scene.host("localhost", "cert_user", "sslmode=require"))
        .await
        .expect_err("no certificate");
    assert!(error.sqlstate().is_some(), "{error}");

    let foreign = scene.certificates.client_key("other", 0o600);
    let error = replicates(&with(&foreign, "other.crt")).await.expect_err("another authority");
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    let error = replicates(&with(&foreign, "client.crt")).await.expect_err("not its key");
    assert!(matches!(error, Error::Config(_)), "{error}");
    let open = scene.certificates.client_key("client", 0o644);
    let error = replicates(&with(&open, "client.crt")).await.expect_err("an open key");
    assert!(error.to_string().contains("0600"), "{error}");
    let error = replicates(&with(&scene.path("client.crt"), "client.crt")).await.expect_err("no key at all");
    assert!(matches!(error, Error::Config(_)), "{error}");
}
