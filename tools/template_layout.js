// Runs inside ComfyUI's page: gives the nodes of the graph that was loaded from an API file their sizes, and adds the note.
([note, sizes]) => {
  const WIDTHS = { PTLoopEnd: 420, PTTrain: 420, PTDemoWorld: 350, PreviewImage: 320, MarkdownNote: 400 };
  const ANSWER = 72;
  const HEIGHTS = { PTLoopEnd: 640, PTTrain: 760, PreviewImage: 340, PreviewAny: 122, MarkdownNote: 540 };
  const graph = app.graph;

  // nodes of the pack that show a line or two once they have run
  const answers = (node) => node.type.startsWith("PT") && node.constructor.nodeData?.output_node;

  function size(node) {
    const [width, height] = node.computeSize();
    const [wide, high] = sizes[node.type === "MarkdownNote" ? "note" : node.id] ??
      [WIDTHS[node.type] ?? 340, HEIGHTS[node.type] ?? (answers(node) ? height + ANSWER : 0)];
    node.setSize([Math.ceil(Math.max(wide, width)), Math.ceil(Math.max(high, height))]);
  }

  for (const node of graph._nodes) {
    for (const widget of node.widgets ?? []) if (widget.name === "control_after_generate") widget.value = "fixed";
    // a prompt needs less room than ComfyUI gives it
    if (node.type === "CLIPTextEncode") HEIGHTS[node.type] = 110;
    size(node);
  }
  const node = LiteGraph.createNode("MarkdownNote");
  graph.add(node);
  node.title = "Read me";
  node.widgets[0].value = note;
  size(node);
}
