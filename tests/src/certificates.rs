//! Certificates and keys for TLS, made with the program `openssl`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{Account, Output, World, skip};

/// What most servers' certificates are for.
pub const LOCALHOST: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

/// How `openssl ca` is told what it needs; it alone sets both ends of the time in every version of OpenSSL.
const AUTHORITY: &str = "[ca]\ndefault_ca = this\n[this]\ndatabase = index\nserial = number\nnew_certs_dir = .\nunique_subject = no\n\
    default_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n";

/// A folder of certificates (`NAME.crt`) and their keys (`NAME.key`), PEM, which belong to the [`Account`].
///
/// Two authorities are there from the start: `ca`, and `other`, which nobody shall trust.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    account: Account,
}

/// A pair of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// RSA of 2,048 bits.
    Rsa,
    /// The curve P-256.
    P256,
    /// The curve P-384.
    P384,
    /// Ed25519, whose signatures have no digest of their own.
    Ed25519,
}

/// What a certificate is like.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its holder's key.
    pub key: Key,
    /// The digest within its signature.
    pub digest: &'static str,
    /// Its extensions, a line each. Without any it is of version 1, where OpenSSL (up to 3.1) makes such.
    pub extensions: &'static str,
    /// It was valid for the first day of 2020 only; else for two days from now.
    pub expired: bool,
}

impl Default for Kind {
    fn default() -> Kind {
        Kind { key: Key::P256, digest: "sha256", extensions: LOCALHOST, expired: false }
    }
}

impl Certificates {
    /// The two authorities, or none and a loud skip where the machine has no `openssl`.
    pub fn or_skip(world: &World) -> Result<Option<Certificates>> {
        if !Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success()) {
            skip("the program openssl, which makes certificates, is not on this machine");
            return Ok(None);
        }
        let all = Certificates { folder: world.folder("certificates")?, account: world.account() };
        all.write("authority", AUTHORITY)?;
        all.write("index", "")?;
        all.write("number", "01\n")?;
        for authority in ["ca", "other"] {
            all.self_signed(authority, authority, Kind { extensions: "", ..Kind::default() })?;
        }
        Ok(Some(all))
    }

    /// The path of a file in the folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// A certificate that its own holder has signed; it is an authority, too. It never expires in a test.
    pub fn self_signed(&self, name: &str, common_name: &str, kind: Kind) -> Result<()> {
        let mut command = self.request(name, common_name, kind.key);
        command.args(["-x509", "-days", "2", &format!("-{}", kind.digest), "-out", &format!("{name}.crt")]);
        if !kind.extensions.is_empty() {
            command.args(["-addext", kind.extensions]);
        }
        Output::of(&mut command)?.ok().map(drop)
    }

    /// A certificate that `ca` has signed.
    pub fn issue(&self, name: &str, common_name: &str, kind: Kind) -> Result<()> {
        let [request, certificate] = ["csr", "crt"].map(|extension| format!("{name}.{extension}"));
        Output::of(self.request(name, common_name, kind.key).args(["-out", &request]))?.ok()?;
        let mut command = self.openssl();
        if kind.expired {
            command.args(["ca", "-batch", "-notext", "-config", "authority"]);
            command.args(["-cert", "ca.crt", "-keyfile", "ca.key", "-md", kind.digest]);
            command.args(["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]);
        } else {
            command.args(["x509", "-req", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]);
            command.args(["-days", "2", &format!("-{}", kind.digest)]);
        }
        command.args(["-in", &request, "-out", &certificate]);
        if !kind.extensions.is_empty() {
            let extensions = format!("{name}.ext");
            self.write(&extensions, kind.extensions)?;
            command.args(["-extfile", &extensions]);
        }
        Output::of(&mut command)?.ok().map(drop)
    }

    /// Makes a certificate the one that a server shows from its next start on.
    pub fn serve(&self, name: &str) -> Result<()> {
        for extension in ["crt", "key"] {
            self.write(
                &format!("server.{extension}"),
                &fs::read(self.path(&format!("{name}.{extension}")))?,
            )?;
        }
        Ok(())
    }

    /// What `postgresql.conf` needs to show what [`Certificates::serve`] has chosen, and to ask clients for theirs.
    pub fn settings(&self) -> [(&'static str, String); 4] {
        let path = |file: &str| self.path(file).display().to_string();
        [
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", path("server.crt")),
            ("ssl_key_file", path("server.key")),
            ("ssl_ca_file", path("ca.crt")),
        ]
    }

    fn request(&self, name: &str, common_name: &str, key: Key) -> Command {
        let mut command = self.openssl();
        let (keyout, subject) = (format!("{name}.key"), format!("/CN={common_name}"));
        command.args(["req", "-new", "-nodes", "-keyout", &keyout, "-subj", &subject, "-newkey"]);
        match key {
            Key::Rsa => command.arg("rsa:2048"),
            Key::P256 => command.args(["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]),
            Key::P384 => command.args(["ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"]),
            Key::Ed25519 => command.arg("ed25519"),
        };
        command
    }

    fn openssl(&self) -> Command {
        let mut command = self.account.command("openssl");
        command.current_dir(&self.folder);
        command
    }

    /// A file that only its owner may read, as everyone demands of keys.
    fn write(&self, file: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path: &Path = &self.path(file);
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        self.account.own(path)
    }
}
