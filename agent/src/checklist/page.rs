//! A checklist as a page of HTML: one file, without scripts, that loads nothing and can be sent as it is.

use super::{Checklist, Item, Level, Plot};
use crate::html::{Html, html};

/// The page's style, within it.
const STYLE: &str = include_str!("page.css");

/// Renders it.
pub fn page(checklist: &Checklist, plots: &[Plot]) -> String {
    let at = checklist.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let items: Html = checklist.items.iter().map(item).collect();
    let drawn: Html = plots.iter().map(Plot::section).collect();
    let drawn = match plots.is_empty() {
        true => html!(
            "<section><h2>Over time</h2><p class=\"note\">There is nothing to draw before looks of two days were kept.</p></section>"
        ),
        false => drawn,
    };
    let page = html!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src \
         'none'; style-src 'unsafe-inline'\"><title>" (checklist.checklist.as_str()) " checklist of " (checklist.cluster.as_str())
        "</title><style>" (Html::raw(STYLE)) "</style></head><body><header><div><h1>" (checklist.cluster.as_str())
        "</h1><p>" (checklist.checklist.as_str()) " checklist, " (at) "</p></div><p class=\"pill " (class(checklist.level)) "\">"
        (word(checklist.level)) "</p></header><main><p class=\"note\">" (checklist.summary.as_str()) "</p>" (items) (drawn)
        "</main><footer><p>walkeep " (env!("CARGO_PKG_VERSION")) "</p></footer></body></html>\n"
    );
    page.into_string()
}

fn item(item: &Item) -> Html {
    let lines =
        |lines: &[String]| -> Html { lines.iter().map(|line| html!("<p>" (line.as_str()) "</p>")).collect() };
    let todo = match item.todo.is_empty() {
        true => Html::default(),
        false => html!("<pre>" (item.todo.join("\n")) "</pre>"),
    };
    html!(
        "<section class=\"item " (class(item.level)) "\"><h2><span class=\"light\" role=\"img\" aria-label=\"" (word(item.level))
        "\"></span>" (item.title) "</h2>" (lines(&item.evidence)) (todo) "</section>"
    )
}

fn class(level: Level) -> &'static str {
    match level {
        Level::Green => "good",
        Level::Yellow => "warning",
        Level::Red => "bad",
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Green => "green",
        Level::Yellow => "yellow",
        Level::Red => "red",
    }
}
