//! Making a new cluster.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::{Postgres, servers};
use crate::{Certificates, Installation, Output, World};

/// A cluster yet to be made.
#[derive(Clone, Debug)]
pub struct Builder {
    installation: Installation,
    name: String,
    checksums: bool,
    segment_mib: u32,
    settings: Vec<(String, String)>,
    hba: Option<String>,
    environment: Vec<(String, String)>,
    configuration_outside: bool,
}

impl Builder {
    pub(super) fn new(installation: Installation, name: &str) -> Builder {
        Builder {
            installation,
            name: name.to_owned(),
            checksums: true,
            segment_mib: 16,
            settings: Vec::new(),
            hba: None,
            environment: Vec::new(),
            configuration_outside: false,
        }
    }

    /// Data checksums; on unless told otherwise.
    pub fn checksums(mut self, on: bool) -> Builder {
        self.checksums = on;
        self
    }

    /// The size of WAL segments; 16 MiB unless told otherwise.
    pub fn segment_mib(mut self, size: u32) -> Builder {
        self.segment_mib = size;
        self
    }

    /// One more line for `postgresql.conf`.
    pub fn conf(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The whole of `pg_hba.conf`; by default all may connect over the Unix socket, and with a password over TCP.
    pub fn hba(mut self, text: &str) -> Builder {
        self.hba = Some(text.to_owned());
        self
    }

    /// TLS with the certificate that is served.
    pub fn tls(self, certificates: &Certificates) -> Builder {
        certificates.settings().iter().fold(self, |builder, (name, value)| builder.conf(name, value))
    }

    /// Variables for the server's environment, and so for its archive_command.
    pub fn env(mut self, variables: &[(String, String)]) -> Builder {
        self.environment.extend_from_slice(variables);
        self
    }

    /// Keeps the three configuration files outside the data directory, as Debian does.
    pub fn configuration_outside(mut self) -> Builder {
        self.configuration_outside = true;
        self
    }

    /// Makes the cluster, starts it, and creates the role `walkeep` (password `walkeep`).
    pub fn start(self, world: &World) -> Result<Postgres> {
        let server = self.init(world)?;
        server.start()?;
        server
            .sql("CREATE ROLE walkeep LOGIN REPLICATION PASSWORD 'walkeep'; GRANT pg_monitor TO walkeep")?;
        Ok(server)
    }

    /// Makes the cluster only.
    pub fn init(self, world: &World) -> Result<Postgres> {
        let data = world.folder(&self.name)?;
        let mut initdb = world.account().command(self.installation.bin.join("initdb"));
        initdb.arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]);
        initdb.arg(format!("--wal-segsize={}", self.segment_mib));
        match (self.checksums, self.installation.major >= 18) {
            (true, _) => drop(initdb.arg("--data-checksums")),
            (false, true) => drop(initdb.arg("--no-data-checksums")),
            (false, false) => {}
        }
        Output::of(&mut initdb)?.ok()?;

        let mut server = Postgres::adopt(&self.installation, world, &self.name, &data)?;
        server.environment = self.environment.clone();
        let home =
            if self.configuration_outside { self.move_configuration(world, &mut server)? } else { data };
        let conf = home.join("postgresql.conf");
        let mut text = fs::read_to_string(&conf).context("initdb made no postgresql.conf")?;
        text.push_str(&self.settings());
        fs::write(&conf, text)?;
        let hba = self.hba.clone().unwrap_or_else(|| {
            "local all all trust\nlocal replication all trust\n\
             host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"
                .to_owned()
        });
        fs::write(home.join("pg_hba.conf"), hba)?;
        Ok(server)
    }

    fn move_configuration(&self, world: &World, server: &mut Postgres) -> Result<PathBuf> {
        let etc = world.folder(&format!("{}.etc", self.name))?;
        for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
            fs::rename(server.data.join(file), etc.join(file))
                .with_context(|| format!("cannot move {file}"))?;
        }
        let path = |file: &str| etc.join(file).display().to_string();
        let conf = path("postgresql.conf");
        let text = fs::read_to_string(&conf)?;
        let places =
            [("data_directory", server.data.display().to_string()), ("hba_file", path("pg_hba.conf"))];
        let places = places.into_iter().chain([("ident_file", path("pg_ident.conf"))]);
        let lines: String = places.map(|(name, place)| format!("{name} = '{place}'\n")).collect();
        fs::write(&conf, text + &lines)?;
        server.arguments.extend(["-c".to_owned(), format!("config_file={conf}")]);
        Ok(etc)
    }

    fn settings(&self) -> String {
        // A killed process loses nothing without fsync, only a killed machine would; and tests run ten times faster.
        let defaults = [
            ("fsync", "off"),
            ("wal_level", "replica"),
            ("password_encryption", "scram-sha-256"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("shared_buffers", "32MB"),
            ("max_connections", "30"),
            ("archive_mode", "on"),
            ("archive_command", ""),
            ("log_line_prefix", "%m [%p] %b "),
        ];
        let mut text = String::new();
        let given = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in defaults.into_iter().chain(given) {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        text
    }
}

impl Postgres {
    /// Makes and starts a standby of this server, by `pg_basebackup`. `None` if the machine has none that can.
    pub fn standby(&self, world: &World, name: &str) -> Result<Option<Postgres>> {
        let own = self.installation.tool("pg_basebackup").map(|path| (self.major(), path));
        let Some((_, tool)) = own.or_else(|| servers::client_tool("pg_basebackup", self.major())) else {
            return Ok(None);
        };
        let data = world.folder(name)?;
        ensure!(fs::read_dir(&data)?.next().is_none(), "{} is in use", data.display());
        let mut copy = self.account.command(tool);
        copy.arg("-D").arg(&data).arg("-d").arg(self.conninfo()).args(["-R", "-c", "fast", "-X", "stream"]);
        Output::of(&mut copy)?.ok()?;
        // A newer tool writes words that an older server's library does not know. The last setting counts.
        let mut settings = fs::OpenOptions::new().append(true).open(data.join("postgresql.auto.conf"))?;
        writeln!(settings, "primary_conninfo = '{}'", self.conninfo())?;
        let standby = Postgres::adopt(&self.installation, world, name, &data)?.with_env(&self.environment);
        standby.start()?;
        Ok(Some(standby))
    }
}
