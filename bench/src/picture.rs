//! A report as a picture: of each row the two medians as bars, the quartiles as a line across their ends.

use std::fmt::Write as _;

use crate::report::{Report, Row};
use crate::spread::{Spread, figure};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
const BARS: f64 = 560.0;
const BAR: f64 = 16.0;
const ROW: f64 = 84.0;

/// SVG, readable on light and dark ground.
pub(crate) fn draw(report: &Report) -> String {
    let lines = report.setting.len() + report.notes.len();
    let height = 64.0 + ROW * report.rows.len() as f64 + 18.0 * lines as f64 + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, MARGIN, 34.0, "font-size=\"18\" font-weight=\"600\" fill=\"#1b2733\"", &report.title);
    let mut y = 64.0;
    for row in &report.rows {
        draw_row(&mut svg, y, row);
        y += ROW;
    }
    for line in report.setting.iter().chain(&report.notes) {
        text(&mut svg, MARGIN, y + 8.0, "fill=\"#5b6875\" font-size=\"12\"", line);
        y += 18.0;
    }
    svg + "</svg>\n"
}

fn draw_row(svg: &mut String, y: f64, row: &Row) {
    let colour = if row.goal.is_met_by(row.ratio.median) { "#1f7a4d" } else { "#b4431f" };
    text(svg, MARGIN, y + 10.0, "font-weight=\"600\" fill=\"#1b2733\"", &row.what);
    let ratio = format!("ratio {}", row.ratio);
    text(
        svg,
        WIDTH - MARGIN,
        y + 10.0,
        &format!("text-anchor=\"end\" font-weight=\"600\" fill=\"{colour}\""),
        &ratio,
    );
    let most = [row.ours, row.theirs].iter().map(|spread| spread.upper).fold(f64::MIN_POSITIVE, f64::max);
    let contenders = [("walkeep", row.ours, "#2f6db5"), (row.against.as_str(), row.theirs, "#a9b4bf")];
    for (number, (name, spread, colour)) in contenders.into_iter().enumerate() {
        bar(svg, y + 18.0 + (BAR + 6.0) * number as f64, &spread, most, colour);
        let label = format!("{} {}  {name}", figure(spread.median), row.unit);
        let at = MARGIN + BARS * spread.upper / most + 8.0;
        text(svg, at, y + 31.0 + (BAR + 6.0) * number as f64, "fill=\"#1b2733\"", &label);
    }
}

fn bar(svg: &mut String, y: f64, spread: &Spread, most: f64, colour: &str) {
    let across = |value: f64| MARGIN + BARS * value / most;
    let middle = y + BAR / 2.0;
    let _ = writeln!(
        svg,
        "<rect x=\"{MARGIN}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>\n\
         <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"#1b2733\"/>",
        across(spread.median) - MARGIN,
        across(spread.lower),
        across(spread.upper),
    );
}

fn text(svg: &mut String, x: f64, y: f64, attributes: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{content}</text>");
}
