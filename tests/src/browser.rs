//! A real browser without a screen: Chromium, told what to do by its driver over WebDriver.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::account::Orphan;
use crate::http::ask;
use crate::{Port, World, skip, wait_for};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where Debian has it, and how others call it.
const PROGRAMS: [&str; 4] =
    ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome", "/usr/bin/chrome"];

/// One window of it. It ends with this value.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    port: Port,
    session: String,
}

impl Browser {
    /// Starts it, or skips aloud where the machine has none.
    pub fn or_skip(world: &World) -> Result<Option<Browser>> {
        let chromium = PROGRAMS.iter().find(|path| Path::new(path).exists());
        let has_driver = Command::new("chromedriver").arg("--version").stdout(Stdio::null()).status().is_ok();
        let (Some(chromium), true) = (chromium, has_driver) else {
            skip("there is no Chromium with its driver on this machine (packages chromium, chromium-driver)");
            return Ok(None);
        };
        let home = world.folder("browser")?;
        let port = Port::reserve()?;
        let mut command = world.account().daemon("chromedriver", Orphan::Kill);
        command.arg(format!("--port={port}")).arg("--log-level=WARNING");
        command.env("HOME", &home).env("TMPDIR", &home).stdout(Stdio::null()).stderr(Stdio::null());
        let mut browser = Browser {
            driver: command.spawn().context("cannot start chromedriver")?,
            port,
            session: String::new(),
        };
        wait_for("chromedriver answers", PATIENCE, || {
            let status = browser.call("GET", "/status", &Value::Null)?;
            Ok((status["ready"] == true).then_some(()))
        })?;
        let options = json!({
            "binary": chromium,
            "args": [
                // No namespaces where the tests run in a container; what is opened are pages of ours.
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", "--hide-scrollbars", format!("--user-data-dir={}", home.join("profile").display()),
            ],
        });
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}});
        let session = browser.call("POST", "/session", &wanted)?;
        browser.session = session["sessionId"].as_str().context("no session")?.to_owned();
        Ok(Some(browser))
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = ask(method, self.port.number(), path, &[], &body)?;
        let answer: Value = serde_json::from_str(&reply.body).with_context(|| reply.body.clone())?;
        ensure!(reply.status == 200, "{method} {path}: {}", answer["value"]["message"]);
        Ok(answer["value"].clone())
    }

    fn command(&self, path: &str, body: &Value) -> Result<Value> {
        self.call("POST", &format!("/session/{}/{path}", self.session), body)
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.command("goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Sets the width of the page, and whether its user likes it dark.
    pub fn look(&self, width: u32, dark: bool) -> Result<()> {
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", &screen)?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &media).map(drop)
    }

    /// Opens a page, and waits until it is there.
    pub fn open(&self, url: &str) -> Result<()> {
        self.command("url", &json!({ "url": url })).map(drop)
    }

    /// What a script returns. Pages that forbid scripts are no hindrance to it.
    pub fn ask(&self, script: &str) -> Result<Value> {
        self.command("execute/sync", &json!({"script": script, "args": []}))
    }

    /// What the browser has complained of since the last time.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = self.command("se/log", &json!({"type": "browser"}))?;
        let entries = log.as_array().context("no log")?;
        Ok(entries.iter().map(|entry| entry["message"].to_string()).collect())
    }

    /// The whole page as a PNG, in base64.
    pub fn picture(&self) -> Result<String> {
        let taken = self.devtools("Page.captureScreenshot", &json!({"captureBeyondViewport": true}))?;
        taken["data"].as_str().map(str::to_owned).context("no picture")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // It ends the browser; the driver ends below, whatever became of that.
            let _ = self.call("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
