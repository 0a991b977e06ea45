//! Keys for scenarios: made once by `age-keygen` and `openssl`, and secret to nobody.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;

use crate::{Agent, World};

/// Whose public key everything is encrypted to.
pub const RECIPIENT: &str = "age1xkea39wj8n7q6p0uluwxyrj7vw57hynwq73mcy0q3a43agtxxu6q0vcgtr";
const IDENTITY: &str = "AGE-SECRET-KEY-108H3RLL0PSFSYKGNYYDQUFM7GC0DMJJK89QPXLGERKL8YV9QG9UQ89LJ29";
/// Another one, who comes later.
pub const LATER_RECIPIENT: &str = "age177lptu768p682qttxmydyt0ghuk0wjthfs3e4cvve3rdrqye735sp0yc4u";
const LATER_IDENTITY: &str = "AGE-SECRET-KEY-10QJN272YP97TJYR28AX53HZH2Y37AG3CE9L5U6VNF3X948W692QSPLTZWC";
const METADATA: &str = "AGE-SECRET-KEY-1GLAWZFVH9YK3K4ZFFZPPYJRT4QYUPCU480W2AR5LSW7GHY6TA7HS86G828";
/// The public half of the key with which the database's host signs.
pub const HOST_PUBLIC: &str = "MCowBQYDK2VwAyEAmeIsIPQYQPGsw55WD1oFvPMgW6JSBwrNf/VllIhm1GM=";
const HOST_SIGNS: &str = "MC4CAQAwBQYDK2VwBCIEIO/8iRAfmEmx0/8jVr/0/YuB008YJLSaa7r/2tRFyIMF";
/// That of the vault's.
pub const VAULT_PUBLIC: &str = "MCowBQYDK2VwAyEArx3zWjTMV8qnLWzSx11J3z5tyZrfpFxaWlMs48lKmHo=";
const VAULT_SIGNS: &str = "MC4CAQAwBQYDK2VwBCIEIIbydfLF+gueeB6GHQ/WDMnxVsPwQXiT2zhE7reE49C/";

/// Which keys a machine has of an encrypted and signed repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// The database's host: it signs, and reads metadata.
    Host,
    /// Where restores are run: it reads everything, and signs what it finds out.
    Vault,
    /// A second one, whose recipient was added later.
    LaterVault,
    /// A host that reads nothing at all.
    BlindHost,
}

impl Agent {
    /// Sets `[encryption]` and `[signing]`.
    pub fn hold(&mut self, world: &World, holder: Holder) -> Result<()> {
        let file = |name: &str, text: &str| -> Result<String> {
            let path = world.write(name, text)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            Ok(format!("{:?}", path.display().to_string()))
        };
        let pem = |key: &str| format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
        self.set("encryption", "recipients", &format!("[{RECIPIENT:?}]"))?;
        self.set("signing", "trusted_keys", &format!("[{HOST_PUBLIC:?}, {VAULT_PUBLIC:?}]"))?;
        let identity = match holder {
            Holder::Host => Some(("metadata_identity_file", "metadata.txt", METADATA)),
            Holder::Vault => Some(("identity_file", "identity.txt", IDENTITY)),
            Holder::LaterVault => Some(("identity_file", "later.txt", LATER_IDENTITY)),
            Holder::BlindHost => None,
        };
        if let Some((key, name, text)) = identity {
            self.set("encryption", key, &file(name, text)?)?;
        }
        let (name, key) = match holder {
            Holder::Host | Holder::BlindHost => ("host.pem", HOST_SIGNS),
            Holder::Vault | Holder::LaterVault => ("vault.pem", VAULT_SIGNS),
        };
        self.set("signing", "key_file", &file(name, &pem(key))?)
    }
}
