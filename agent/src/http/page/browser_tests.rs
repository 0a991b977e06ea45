//! The page with all that there can be on it, in a browser. With `WALKEEP_PICTURES` naming a folder (of the project, or an absolute
//! path) the pictures of the manual are made anew.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use harness::{Browser, World};

use super::of;
use crate::http::facts::Facts;
use crate::http::facts::tests::{ago, everything};

/// The same as in other tests, in words that a reader of the manual can do something with.
fn presentable() -> Facts {
    let mut facts = everything();
    facts.started = ago(9 * 86_400);
    facts.troubles[0].message = "streaming is interrupted: the server has closed the connection".into();
    facts.troubles[1].message =
        "cannot store WAL segment 000000010000000000000006: the store answered 503".into();
    if let Some((found, ..)) = &mut facts.repository.found
        && let Some(last) = &mut Arc::make_mut(found).drills.last_drill
    {
        last.failure = Some("pg_amcheck found damage in the index orders_pkey".into());
    }
    facts
}

#[test]
fn all_of_it_fits_on_every_screen() -> Result<()> {
    let world = World::new()?;
    let Some(browser) = Browser::or_skip(&world)? else { return Ok(()) };
    let page = world.write("page.html", of(&presentable()).html)?;
    for (name, width, dark) in [("light", 1080, false), ("dark", 1080, true), ("phone", 390, true)] {
        browser.look(width, dark)?;
        browser.open(&format!("file://{}", page.display()))?;
        let facts = browser.ask(
            "const inside = element => { const box = element.getBoundingClientRect(); \
               return box.left >= 0 && box.right <= innerWidth + 1 && box.width > 0 }; \
             const seen = [...document.querySelectorAll('section, .pill, .lane svg, .plot, .axis, dl, .troubles li')]; \
             return { width: document.documentElement.scrollWidth, window: innerWidth, seen: seen.length, \
               outside: seen.filter(element => !inside(element)).map(element => element.outerHTML.slice(0, 60)) }",
        )?;
        ensure!(
            facts["width"].as_f64() <= facts["window"].as_f64(),
            "{name} is wider than its window: {facts}"
        );
        ensure!(facts["seen"].as_u64() > Some(15), "{name}: {facts}");
        ensure!(facts["outside"].as_array().is_some_and(Vec::is_empty), "{name}: {facts}");
        let picture = BASE64_STANDARD.decode(browser.picture()?)?;
        ensure!(picture.starts_with(b"\x89PNG"), "{name} is no picture");
        // Wide and dark is looked at, and not shown.
        if let Some(folder) = std::env::var_os("WALKEEP_PICTURES").filter(|_| name != "dark") {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
            fs::write(folder.join(format!("page-{name}.png")), picture)?;
        }
    }
    Ok(())
}
