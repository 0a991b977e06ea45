//! The page at `/`: everything at one look, of one piece, for a phone at night as for a wall. It needs no script, and loads
//! nothing else.

mod cards;
mod lag;
mod schedule;
mod verdict;
mod window;
mod words;

use crate::html::{Html, html};
use verdict::Level;
use words::{between, moment, size, span};

use repository::catalogue::Window;

use super::facts::Facts;

/// The page's style, within it.
const STYLE: &str = include_str!("style.css");

/// Seconds between two loads.
const REFRESH: &str = "15";

/// The page, and what it may do.
pub(super) struct Page {
    pub(super) html: String,
    /// Its Content-Security-Policy: its own style, and an icon that it brings; nothing else.
    pub(super) policy: String,
}

/// Renders it.
pub(super) fn of(facts: &Facts) -> Page {
    // Whoever should get something into the page cannot know the number that its style has this time.
    let nonce = format!("{:032x}", repository::chance::random::<u128>());
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let verdict = verdict::of(facts);
    let class = class_of(verdict.level);
    let reasons: Html = verdict
        .reasons
        .iter()
        .map(|(level, reason)| html!("<li class=\"" (class_of(*level)) "\">" (*reason) "</li>"))
        .collect();
    let page = html!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta http-equiv=\"refresh\" content=\"" (REFRESH) "\">\
         <meta name=\"robots\" content=\"noindex\"><title>" (headline(verdict.level)) ": " (facts.cluster) " – walkeep</title>\
         <link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect \
         width='16' height='16' rx='4' fill='%230f766e'/%3E%3Cpath d='M3 5l2.2 6L8 6l2.8 5L13 5' fill='none' stroke='white' \
         stroke-width='1.6' stroke-linecap='round' stroke-linejoin='round'/%3E%3C/svg%3E\">\
         <style nonce=\"" (nonce) "\">" (Html::raw(STYLE)) "</style></head><body>"
        "<header><div class=\"mark\" aria-hidden=\"true\"><svg viewBox=\"0 0 16 16\" width=\"28\" height=\"28\"><rect width=\"16\" height=\"16\" rx=\"4\"/>\
         <path d=\"M3 5l2.2 6L8 6l2.8 5L13 5\"/></svg></div><div><h1>" (facts.cluster) "</h1><p>" (facts.store) "</p></div>\
         <p class=\"pill " (class) "\">" (headline(verdict.level)) "</p></header><main>"
        (hero(facts)) "<ul class=\"reasons\">" (reasons) "</ul>"
        (window::section(facts)) (lag::section(facts)) (cards::section(facts)) (schedule::section(facts)) (window::backups(facts)) (troubles(facts))
        "</main><footer><p>walkeep " (env!("CARGO_PKG_VERSION")) ", running for " (between(facts.started, facts.now))
        ", as of " (moment(facts.now)) ". " (looked(facts)) "</p><p><a href=\"/metrics\">metrics</a> · <a \
         href=\"/status.json\">status.json</a> · <a href=\"/readyz\">readyz</a></p></footer></body></html>\n"
    );
    Page { html: page.into_string(), policy }
}

fn class_of(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::Warning => "warning",
        Level::Bad => "bad",
    }
}

fn headline(level: Level) -> &'static str {
    match level {
        Level::Good => "Protected",
        Level::Warning => "Needs attention",
        Level::Bad => "Not protected",
    }
}

/// What would be lost.
fn hero(facts: &Facts) -> Html {
    let risk = facts.at_risk();
    let unknown = || "unknown".to_owned();
    let (mut seconds, mut bytes) =
        (risk.seconds.map_or_else(unknown, span), risk.bytes.map_or_else(unknown, size));
    let mut how = match (facts.streams(), facts.synchronous) {
        (true, true) => "A commit that waits for the agent returns when its WAL is in the repository.",
        (true, false) => "As WAL streams now. Everything before that can be restored.",
        (false, _) => "At most, as far as is known: no WAL is streaming.",
    };
    if let Some(found) = facts.repository.facts() {
        let reached = |window: &Window| window::follows(facts, found, window.timeline, window.to_lsn);
        if found.windows.is_empty() {
            (seconds, bytes) = ("everything".to_owned(), "all".to_owned());
            how = "There is no backup that can be restored, and WAL alone brings nothing back.";
        } else if facts.streams() && !found.windows.iter().any(reached) {
            how = "These, and all since the last recovery window has ended: the WAL that streams now does not go on with it.";
        }
    }
    html!(
        "<section class=\"hero\"><h2>If the server burned now</h2><div class=\"figures\"><p><b>" (seconds)
        "</b><span>of commits lost</span></p><p><b>" (bytes) "</b><span>of WAL lost</span></p></div><p class=\"note\">" (how)
        "</p></section>"
    )
}

fn troubles(facts: &Facts) -> Html {
    if facts.troubles.is_empty() {
        return html!(
            "<section><h2>Last errors</h2><p class=\"note\">None since the agent was started.</p></section>"
        );
    }
    let lines: Html = facts
        .troubles
        .iter()
        .map(|trouble| {
            let times = match trouble.count {
                1 => Html::default(),
                count => html!(" <b>×" (count.to_string()) "</b> since " (moment(trouble.first))),
            };
            html!("<li><time>" (moment(trouble.last)) "</time> <span>" (between(trouble.last, facts.now)) " ago" (times)
                "</span><p>" (trouble.message) "</p></li>")
        })
        .collect();
    html!("<section><h2>Last errors</h2><ol class=\"troubles\">" (lines) "</ol></section>")
}

/// How old is what was looked at.
fn looked(facts: &Facts) -> Html {
    match &facts.repository.found {
        Some((_, at, _)) => html!("The repository was looked at " (between(*at, facts.now)) " ago."),
        None => html!("The repository has not been looked at yet."),
    }
}

#[cfg(test)]
mod browser_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::facts::tests::{everything, nothing};

    #[test]
    fn nothing_from_outside_is_loaded_or_run() {
        for facts in [everything(), nothing()] {
            let page = of(&facts);
            let html = &page.html;
            for forbidden in [
                "<script",
                "javascript:",
                "http://",
                "https://",
                "src=",
                "style=\"",
                "@import",
                "url(",
                "onload",
            ] {
                let ours = html.replace("xmlns='http://www.w3.org/2000/svg'", "");
                assert!(!ours.contains(forbidden), "{forbidden}");
            }
            let nonce = page.policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
            assert!(html.contains(&format!("<style nonce=\"{nonce}\">")));
            assert_ne!(page.policy, of(&facts).policy, "each page has a nonce of its own");
        }
    }

    #[test]
    fn without_a_backup_everything_would_be_lost() {
        let mut facts = everything();
        assert!(of(&facts).html.contains("Everything before that can be restored"));
        let look = &mut facts.repository.found.as_mut().unwrap().0;
        let found = std::sync::Arc::make_mut(look);
        // WAL is missing on the timeline that streams: the window before it is not gone on with.
        found.gaps[0].timeline = found.windows[2].timeline;
        (found.gaps[0].from_lsn, found.gaps[0].to_lsn) = (proto::Lsn(0x900_0000), proto::Lsn(0x900_0100));
        assert!(of(&facts).html.contains("does not go on with it"));
        let found = std::sync::Arc::make_mut(&mut facts.repository.found.as_mut().unwrap().0);
        found.windows.clear();
        assert!(of(&facts).html.contains("<b>everything</b><span>of commits lost"));
    }

    #[test]
    fn what_the_world_says_is_escaped() {
        let mut facts = everything();
        facts.store = "file:///a\"><img>".into();
        let html = of(&facts).html;
        assert!(html.contains("&lt;b&gt;the server&lt;/b&gt; is away"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;more&quot;"), "{html}");
        assert!(html.contains("file:///a&quot;&gt;&lt;img&gt;"));
    }

    #[test]
    fn the_page_is_small_and_its_elements_are_closed() {
        for facts in [everything(), nothing()] {
            let html = of(&facts).html;
            assert!(html.len() < 100_000, "{}", html.len());
            for element in [
                "section", "div", "svg", "p", "span", "table", "ul", "ol", "li", "b", "main", "title", "code",
            ] {
                let opened = html.matches(&format!("<{element}>")).count()
                    + html.matches(&format!("<{element} ")).count();
                assert_eq!(opened, html.matches(&format!("</{element}>")).count(), "{element}");
            }
        }
    }
}
