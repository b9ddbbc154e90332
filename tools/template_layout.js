// Runs inside ComfyUI's page: lays out the graph that was loaded from an API file, in rows of groups of columns.
([rows, note, sizes]) => {
  const GAP_X = 50, GAP_Y = 54, GROUP_GAP = 60, PADDING = 24, HEADER = 78;
  const WIDTHS = { PTLoopEnd: 420, PTTrain: 420, PTDemoWorld: 350, PreviewImage: 320, MarkdownNote: 400 };
  const ANSWER = 72;
  // what a node is higher in Nodes 2.0: its rows, and below the nodes of a pack the line with the pack's name
  const ROW = 5, STOCK_LINE = 10, PACK_LINE = 44;
  const HEIGHTS = { PTLoopEnd: 640, PTTrain: 760, PreviewImage: 340, MarkdownNote: 540 };
  const COLOURS = ["#666", "#8A8", "#a1824a", "#88A", "#3f789e", "#6a7a8f"];
  const graph = app.graph;

  // nodes of the pack that show a line or two once they have run
  const answers = (node) => node.type.startsWith("PT") && node.constructor.nodeData?.output_node;

  function size(node) {
    const [width, height] = node.computeSize();
    const [wide, high] = sizes[node === noteNode ? "note" : node.id] ??
      [WIDTHS[node.type] ?? 340, HEIGHTS[node.type] ?? (answers(node) ? height + ANSWER : 0)];
    node.setSize([Math.ceil(Math.max(wide, width)), Math.ceil(Math.max(high, height))]);
  }

  function room(node) {
    const rows = node.widgets?.length ?? 0;
    return node.size[1] + (node === noteNode ? 0 : ROW * rows + (node.type.startsWith("PT") ? PACK_LINE : STOCK_LINE));
  }

  function makeNote() {
    const node = LiteGraph.createNode("MarkdownNote");
    graph.add(node);
    node.title = "Read me";
    node.widgets[0].value = note;
    return node;
  }

  let noteNode = null;
  for (const node of graph._nodes) {
    for (const widget of node.widgets ?? []) if (widget.name === "control_after_generate") widget.value = "fixed";
    // a prompt needs less room than ComfyUI gives it
    if (node.type === "CLIPTextEncode") HEIGHTS[node.type] = 110;
    size(node);
  }
  const nodes = new Map(graph._nodes.map((node) => [String(node.id), node]));
  noteNode = makeNote();
  size(noteNode);
  nodes.set("note", noteNode);

  let top = 0, colour = 0;
  for (const row of rows) {
    let left = 0, bottom = top;
    for (const { title, columns } of row) {
      let x = left + PADDING, lowest = top;
      for (const column of columns) {
        let y = top + HEADER, widest = 0;
        for (const id of column) {
          const node = nodes.get(String(id));
          node.pos = [x, y];
          y += room(node) + GAP_Y;
          widest = Math.max(widest, node.size[0]);
        }
        for (const id of column) nodes.get(String(id)).setSize([widest, nodes.get(String(id)).size[1]]);
        x += widest + GAP_X;
        lowest = Math.max(lowest, y - GAP_Y);
      }
      const group = new LiteGraph.LGraphGroup(title);
      group.pos = [left, top];
      group.size = [x - GAP_X + PADDING - left, lowest + PADDING - top];
      group.color = COLOURS[colour++ % COLOURS.length];
      graph.add(group);
      left += group.size[0] + GROUP_GAP;
      bottom = Math.max(bottom, lowest + PADDING);
    }
    top = bottom + GROUP_GAP;
  }
  graph.setDirtyCanvas(true, true);
  return [...nodes.keys()].filter((id) => !rows.flat().some((group) => group.columns.flat().map(String).includes(id)));
}
