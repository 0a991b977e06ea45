//! A server with a shop in it, and a repository.

use std::path::PathBuf;

use anyhow::{Context, Result};
use harness::{Agent, Installation, Output, Postgres, Repo, StoreKind, World};
use serde_json::Value;

/// A name that needs care wherever it is written.
pub(crate) const SHOP: &str = "Shop = 'x'";

/// What is in the shop, as one line: rows, definitions, large objects, where a sequence stands.
const CONTENT: &str = "SELECT (SELECT count(*) || ' ' || sum(hashtext(o::text)::bigint) FROM orders o),
    (SELECT count(*) || ' ' || sum(hashtext(c::text)::bigint) FROM customers c),
    (SELECT count(*) || ' ' || sum(hashtext(l::text)::bigint) FROM accounts.\"Log\" l),
    (SELECT string_agg(indexdef, ';' ORDER BY indexdef) FROM pg_indexes WHERE schemaname IN ('public', 'accounts')),
    (SELECT string_agg(conname, ',' ORDER BY conname) FROM pg_constraint WHERE contype IN ('p', 'f')
        AND connamespace = 'public'::regnamespace),
    (SELECT string_agg(md5(lo_get(oid)), ',' ORDER BY oid) FROM pg_largeobject_metadata),
    (SELECT last_value FROM orders_id_seq)";

pub(crate) struct Scene {
    pub(crate) server: Postgres,
    pub(crate) agent: Agent,
    pub(crate) repo: Repo,
    pub(crate) installation: Installation,
    pub(crate) scratch: PathBuf,
    pub(crate) world: World,
}

impl Scene {
    /// `None` where the machine has no `pg_dump` of that version.
    pub(crate) fn open(major: u32, store: StoreKind) -> Result<Option<Scene>> {
        let Some(installation) = Installation::or_skip(major) else { return Ok(None) };
        if ["pg_dump", "pg_dumpall", "pg_restore", "psql"]
            .iter()
            .any(|tool| installation.tool(tool).is_none())
        {
            harness::skip(format!("no pg_dump of PostgreSQL {major} is on this machine"));
            return Ok(None);
        }
        let world = World::new()?;
        let repo = Repo::of(store, &world)?;
        // A prepared transaction is a lock that nobody needs to hold.
        let server =
            Postgres::build(&installation, "data").conf("max_prepared_transactions", "2").start(&world)?;
        server.sql(&format!("CREATE DATABASE \"{SHOP}\""))?;
        server.sql("CREATE TABLE small AS SELECT n FROM generate_series(1, 10) n")?;
        server.sql_in(
            SHOP,
            "CREATE TABLE customers (id int PRIMARY KEY, name text);
             INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 200) n;
             CREATE TABLE orders (id bigserial PRIMARY KEY, customer int REFERENCES customers, note text);
             INSERT INTO orders (customer, note)
                 SELECT 1 + n % 200, repeat(md5(n::text), 1 + n % 20) FROM generate_series(1, 8000) n;
             CREATE INDEX ON orders (customer);
             CREATE SCHEMA accounts;
             CREATE TABLE accounts.\"Log\" AS SELECT n, md5(n::text) AS line FROM generate_series(1, 500) n;
             SELECT lo_from_bytea(0, convert_to(repeat(md5(n::text), 3000), 'UTF8')) FROM generate_series(1, 3) n",
        )?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        let scratch = world.folder("scratch")?;
        let text = |path: &PathBuf| format!("{:?}", path.display().to_string());
        agent.set("dump", "postgres", &format!("{:?}", conninfo(&server, "postgres")))?;
        agent.set("dump", "bindir", &text(&installation.bin))?;
        agent.set("dump", "scratch", &text(&scratch))?;
        agent.init()?;
        Ok(Some(Scene { server, agent, repo, installation, scratch, world }))
    }

    /// How the superuser reaches a database of the server.
    pub(crate) fn to(&self, database: &str) -> String {
        conninfo(&self.server, database)
    }

    pub(crate) fn content(&self, database: &str) -> Result<String> {
        self.server.sql_in(database, CONTENT)
    }

    /// `walkeep dump --json …`
    pub(crate) fn dump(&self, arguments: &[&str]) -> Result<Value> {
        self.agent.walkeep(&[&["--quiet", "dump", "--json"], arguments].concat())?.ok()?.json()
    }

    /// `restore-cmd dump …`
    pub(crate) fn bring(&self, arguments: &[&str]) -> Result<Output> {
        self.agent.restore_cmd(&[&["--quiet", "dump"], arguments].concat())
    }

    /// Into a new database.
    pub(crate) fn load(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        let to = self.to("postgres");
        self.bring(&[arguments, &["--to-connection", &to, "--create-database", name]].concat())
    }

    /// The labels of all dumps that are listed, oldest first.
    pub(crate) fn labels(&self) -> Result<Vec<String>> {
        let list = self.agent.list()?;
        let dumps = list["dumps"].as_array().context("`dumps` is no list")?;
        let label = |dump: &Value| dump["label"].as_str().map(str::to_owned).context("a dump without label");
        dumps.iter().map(label).collect()
    }

    /// Keys of objects below `dump/`, from the label on.
    pub(crate) fn objects(&self) -> Result<Vec<String>> {
        let below = |key: &str| key.split_once("/dump/").map(|(_, rest)| rest.to_owned());
        Ok(self.repo.objects()?.iter().filter_map(|object| below(&object.key)).collect())
    }

    pub(crate) fn has_database(&self, name: &str) -> Result<bool> {
        let count =
            format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", name.replace('\'', "''"));
        Ok(self.server.sql(&count)? == "1")
    }

    pub(crate) fn is_swept(&self) -> Result<()> {
        let left = std::fs::read_dir(&self.scratch)?.count();
        anyhow::ensure!(left == 0, "{left} entries were left in the scratch directory");
        Ok(())
    }
}

fn conninfo(server: &Postgres, database: &str) -> String {
    format!(
        "host={} port={} user=postgres dbname={database}",
        server.socket_folder().display(),
        server.port()
    )
}

/// The label of a dump.
pub(crate) fn label(dump: &Value) -> Result<String> {
    Ok(dump["label"].as_str().context("no label")?.to_owned())
}
