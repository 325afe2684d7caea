//! The comparison as a picture: a plot in SVG, written by hand, that needs nothing but a browser.

use super::{Comparison, PARTITIONS_PER_TOKEN, Row, Strategy};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
/// Left, top, right and bottom of what is plotted in.
const LEFT: f64 = 76.0;
const TOP: f64 = 84.0;
const RIGHT: f64 = 620.0;
const BOTTOM: f64 = 440.0;
/// The lowest efficiency that is shown.
const LOWEST: f64 = 0.2;

/// How a strategy is drawn: in colours that differ for the colour-blind too, and with marks that differ without any.
fn style(strategy: Strategy) -> (&'static str, &'static str) {
    match strategy {
        Strategy::Tokens => ("#0072b2", "circle"),
        Strategy::TokensOverPartitions => ("#d55e00", "square"),
        Strategy::EqualPartitions => ("#009e73", "triangle"),
        Strategy::Planned => ("#000000", "diamond"),
    }
}

/// What the legend says of a strategy, in two lines.
fn explanation(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Tokens => "T random tokens a node",
        Strategy::TokensOverPartitions => "T random tokens, equal partitions",
        Strategy::EqualPartitions => "Q/S partitions a node, at random",
        Strategy::Planned => "replicas by this planner",
    }
}

/// The plot.
pub fn svg(comparison: &Comparison, rows: &[Row]) -> String {
    let mut parts = vec![
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#222\">"
        ),
        format!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"),
        text(LEFT, 32.0, "start", 18, "Load balancing efficiency by strategy (Dynamo, figure 8)"),
        text(
            LEFT,
            56.0,
            "start",
            13,
            &format!(
                "S = {} nodes, N = {}; mean load / greatest load; the lines are means of {} seeds, the bands their range",
                comparison.nodes, comparison.n, comparison.seeds
            ),
        ),
    ];
    parts.extend(axes(rows));
    // The best is drawn last, on top.
    for (index, strategy) in Strategy::ALL.into_iter().enumerate() {
        parts.push(band(rows, index, strategy));
        parts.push(line(rows, index, strategy));
    }
    for (index, strategy) in Strategy::ALL.into_iter().enumerate() {
        parts.extend(legend(index, strategy));
    }
    let counted = [
        "Entries that are counted:".to_owned(),
        "1: S T tokens".to_owned(),
        format!("2: S T tokens, Q = {PARTITIONS_PER_TOKEN} S T partitions"),
        "3: Q partitions".to_owned(),
    ];
    for (index, what) in counted.iter().enumerate() {
        parts.push(text(RIGHT + 24.0, BOTTOM - 54.0 + index as f64 * 18.0, "start", 12, what));
    }
    parts.push("</svg>\n".to_owned());
    parts.join("\n")
}

fn text(x: f64, y: f64, anchor: &str, size: u32, what: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{what}</text>")
}

/// Where an amount of metadata is: by its logarithm.
fn x_of(rows: &[Row], entries: usize) -> f64 {
    let log = |entries: usize| (entries as f64).log2();
    let (first, last) = (log(rows[0].entries), log(rows[rows.len() - 1].entries));
    LEFT + 24.0 + (log(entries) - first) / (last - first).max(1.0) * (RIGHT - LEFT - 48.0)
}

fn y_of(efficiency: f64) -> f64 {
    BOTTOM - (efficiency.max(LOWEST) - LOWEST) / (1.0 - LOWEST) * (BOTTOM - TOP)
}

fn axes(rows: &[Row]) -> Vec<String> {
    let mut parts = Vec::new();
    for tenth in 2..=10 {
        let (value, y) = (f64::from(tenth) / 10.0, y_of(f64::from(tenth) / 10.0));
        parts.push(format!("<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"));
        parts.push(text(LEFT - 10.0, y + 4.5, "end", 13, &format!("{value:.1}")));
    }
    for row in rows {
        let x = x_of(rows, row.entries);
        parts.push(format!("<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{BOTTOM}\" y2=\"{:.1}\" stroke=\"#222\"/>", BOTTOM + 6.0));
        parts.push(text(x, BOTTOM + 22.0, "middle", 13, &row.entries.to_string()));
    }
    parts.push(format!("<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#222\"/>"));
    let middle = f64::midpoint(LEFT, RIGHT);
    parts.push(text(middle, BOTTOM + 50.0, "middle", 13, "membership metadata on each node (entries, logarithmic)"));
    let (x, y) = (26.0, f64::midpoint(TOP, BOTTOM));
    let turned = format!("<text transform=\"translate({x} {y}) rotate(-90)\" text-anchor=\"middle\">efficiency</text>");
    parts.push(turned);
    parts
}

/// From the unluckiest seed to the luckiest.
fn band(rows: &[Row], index: usize, strategy: Strategy) -> String {
    let point = |row: &Row, value: f64| format!("{:.1},{:.1}", x_of(rows, row.entries), y_of(value));
    let above = rows.iter().map(|row| point(row, row.efficiencies[index].most));
    let below = rows.iter().rev().map(|row| point(row, row.efficiencies[index].least));
    let points: Vec<String> = above.chain(below).collect();
    format!("<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"0.12\"/>", points.join(" "), style(strategy).0)
}

fn line(rows: &[Row], index: usize, strategy: Strategy) -> String {
    let (colour, mark) = style(strategy);
    let at = |row: &Row| (x_of(rows, row.entries), y_of(row.efficiencies[index].mean));
    let points: Vec<String> = rows.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let marks: Vec<String> = rows.iter().map(at).map(|(x, y)| marked(x, y, mark, colour)).collect();
    let line = points.join(" ");
    format!("<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n{}", marks.join("\n"))
}

fn marked(x: f64, y: f64, mark: &str, colour: &str) -> String {
    let path = match mark {
        "circle" => return format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{colour}\"/>"),
        "square" => "m-4 -4h8v8h-8z",
        "triangle" => "m0 -5.5l5.5 9.5h-11z",
        _ => "m0 -6l6 6l-6 6l-6 -6z",
    };
    format!("<path d=\"M{x:.1} {y:.1}{path}\" fill=\"{colour}\"/>")
}

fn legend(index: usize, strategy: Strategy) -> Vec<String> {
    // The best first, as the lines lie.
    let order = [2, 3, 1, 0][index];
    let (x, y) = (RIGHT + 24.0, TOP + 10.0 + f64::from(order) * 48.0);
    let (colour, mark) = style(strategy);
    vec![
        format!("<line x1=\"{x}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/>", x + 28.0),
        marked(x + 14.0, y, mark, colour),
        text(x + 36.0, y + 4.5, "start", 13, strategy.name()),
        text(x, y + 23.0, "start", 12, explanation(strategy)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::Efficiency;

    #[test]
    fn the_plot_draws_and_names_every_strategy_within_its_frame() {
        let efficiencies = [0.7, 0.6, 0.9, 1.0].map(|mean| Efficiency { least: mean - 0.1, mean, most: mean });
        let rows = [240, 480, 30_720].map(|entries| Row { entries, efficiencies });
        let svg = svg(&Comparison::default(), &rows);
        for strategy in Strategy::ALL {
            assert!(svg.contains(&format!(">{}</text>", strategy.name())), "{strategy:?}");
        }
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<polygon").count()), (4, 4));
        assert!(svg.contains(">240</text>") && svg.contains(">30720</text>"));
        let numbers = svg.split("points=\"").skip(1).flat_map(|rest| rest.split('"').next().unwrap().split([' ', ',']));
        for (at, number) in numbers.map(|number| number.parse::<f64>().unwrap()).enumerate() {
            let range = if at % 2 == 0 { LEFT..=RIGHT } else { TOP..=BOTTOM };
            assert!(range.contains(&number), "{number}");
        }
    }
}
