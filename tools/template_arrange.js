// Looks for places of nodes whose links hardly cross and run over no node: simulated annealing, the same for the same seed.
// nodes: id -> {width, room}; links: [{from, fromY, to, toY, output}]; groups: lists of ids, in reading order, the first one stays
// where it is; start: id -> [x, y]; bends: [{of, to, at}]. Tried are: a node, a group or a bend elsewhere, two nodes or groups
// changing places, a node in line with another. hot: the worsening that is often taken at first.
({ nodes, links, groups, bends, start, steps, seed, hot }) => {
  const TITLE = 30, GAP_X = 50, GAP_Y = 24, PADDING = 24, HEADER = 78, APART = 40, GRID = 10, INSET = 2;
  const CROSSING = 3, TOO_MANY = 18, MOST = 0.3, OVER = 70, TOUCHING = 0.25, ORDER = 0.02, SIZE = 0.045, LENGTH = 0.003, RAGGED = 1.2, STEEP = 5, ROOM = 40;
  const WIDE = 1.6; // of the page: a graph of this form is seen largest
  const COLD = 0.3;

  let state = seed;
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const below = (n) => Math.floor(random() * n);

  // nodes first, then bends, which are points
  const ids = groups.flat(), index = new Map(ids.map((id, i) => [id, i])), N = ids.length, B = bends.length;
  const w = new Float64Array(N + B), h = new Float64Array(N + B), X = new Float64Array(N + B), Y = new Float64Array(N + B);
  ids.forEach((id, i) => { w[i] = nodes[id].width; h[i] = nodes[id].room; [X[i], Y[i]] = start[id]; });
  bends.forEach(({ at }, i) => { [X[N + i], Y[N + i]] = at; });
  const members = groups.map((group) => group.map((id) => index.get(id)));
  const groupOf = new Int32Array(N);
  members.forEach((list, g) => list.forEach((i) => { groupOf[i] = g; }));

  // pieces: [point, height of its socket, point, height of its socket, output], a piece that links share once
  const unique = new Map(), outputs = new Map();
  for (const { from, fromY, to, toY, output } of links) {
    if (!outputs.has(output)) outputs.set(output, outputs.size);
    const path = [[index.get(from), fromY]];
    bends.forEach((bend, i) => { if (bend.of === output && bend.to.includes(to)) path.push([N + i, 0]); });
    path.push([index.get(to), toY]);
    for (let i = 1; i < path.length; i++) {
      const piece = [...path[i - 1], ...path[i], outputs.get(output)];
      unique.set(piece.join(), piece);
    }
  }
  const pieces = [...unique.values()], P = pieces.length;
  const x0 = new Float64Array(P), y0 = new Float64Array(P), x1 = new Float64Array(P), y1 = new Float64Array(P);
  const box = groups.map(() => [0, 0, 0, 0]);

  const side = (ax, ay, bx, by, cx, cy) => (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);

  function cross(p, q) {
    if (pieces[p][4] === pieces[q][4]) return false;
    if (Math.max(x0[p], x1[p]) < Math.min(x0[q], x1[q]) || Math.max(x0[q], x1[q]) < Math.min(x0[p], x1[p])) return false;
    return side(x0[p], y0[p], x1[p], y1[p], x0[q], y0[q]) * side(x0[p], y0[p], x1[p], y1[p], x1[q], y1[q]) < 0
      && side(x0[q], y0[q], x1[q], y1[q], x0[p], y0[p]) * side(x0[q], y0[q], x1[q], y1[q], x1[p], y1[p]) < 0;
  }

  // how much of the piece lies in the box, 0 to 1
  function inside(p, l, t, r, b) {
    const ax = x0[p], ay = y0[p], dx = x1[p] - ax, dy = y1[p] - ay;
    if (Math.max(ax, ax + dx) <= l || Math.min(ax, ax + dx) >= r || Math.max(ay, ay + dy) <= t || Math.min(ay, ay + dy) >= b) return 0;
    let first = 0, last = 1;
    if (dx !== 0) {
      const u = (l - ax) / dx, v = (r - ax) / dx;
      first = Math.max(first, Math.min(u, v)); last = Math.min(last, Math.max(u, v));
    }
    if (dy !== 0) {
      const u = (t - ay) / dy, v = (b - ay) / dy;
      first = Math.max(first, Math.min(u, v)); last = Math.min(last, Math.max(u, v));
    }
    return Math.max(0, last - first);
  }

  const overlap = (al, ar, bl, br, margin) => Math.max(0, Math.min(ar, br) - Math.max(al, bl) + margin);

  const ofPoint = Array.from({ length: N + B }, () => []);
  pieces.forEach(([a, , b], p) => { ofPoint[a].push(p); ofPoint[b].push(p); });
  const near = new Uint8Array(P), moved = new Uint8Array(N + B);

  function lay(p) {
    const [a, ay, b, by] = pieces[p];
    x0[p] = X[a] + w[a]; y0[p] = Y[a] + ay; x1[p] = X[b]; y1[p] = Y[b] + by;
  }

  // crossings of the pieces of moved points, and what of a link lies over a node, where either has moved
  function around() {
    let crossed = 0, covered = 0;
    for (let p = 0; p < P; p++) {
      if (near[p]) for (let q = 0; q < P; q++) if ((q < p || !near[q]) && cross(p, q)) crossed++;
      for (let i = 0; i < N; i++) {
        if (!near[p] && !moved[i]) continue;
        const part = inside(p, X[i] + INSET, Y[i] - TITLE + INSET, X[i] + w[i] - INSET, Y[i] + h[i] - INSET);
        if (part > 0) covered += 1 + part;
      }
    }
    return [crossed, covered];
  }

  let crossings = 0, over = 0, touching = 0;
  function judge() {
    let length = 0, order = 0, ragged = 0, right = 0, bottom = 0;
    touching = 0;
    let steep = 0; // links that hardly go to the right are hard to follow
    for (let p = 0; p < P; p++) {
      length += Math.hypot(x1[p] - x0[p], y1[p] - y0[p]);
      steep += Math.min(2, Math.max(0, ROOM - x1[p] + x0[p]) / ROOM);
    }
    members.forEach((list, g) => {
      let l = Infinity, t = Infinity, r = -Infinity, b = -Infinity;
      for (const i of list) {
        l = Math.min(l, X[i]); t = Math.min(t, Y[i]); r = Math.max(r, X[i] + w[i]); b = Math.max(b, Y[i] + h[i]);
        let alike = false;
        for (const j of list) {
          if (j >= i) break;
          const dx = overlap(X[i], X[i] + w[i], X[j], X[j] + w[j], GAP_X);
          if (X[i] === X[j] || Y[i] === Y[j]) alike = true;
          if (dx > 0) touching += Math.sqrt(dx * overlap(Y[i] - TITLE, Y[i] + h[i], Y[j] - TITLE, Y[j] + h[j], GAP_Y));
        }
        if (!alike) ragged++;
      }
      box[g] = [l - PADDING, t - HEADER, r + PADDING, b + PADDING];
      right = Math.max(right, box[g][2]); bottom = Math.max(bottom, box[g][3]);
      if (box[g][0] < 0 || box[g][1] < 0) touching += 2000;
      for (let k = 0; k < g; k++) {
        const dx = overlap(box[g][0], box[g][2], box[k][0], box[k][2], APART);
        if (dx > 0) touching += Math.sqrt(dx * overlap(box[g][1], box[g][3], box[k][1], box[k][3], APART));
        order += Math.max(0, box[k][0] + box[k][1] * 1.5 - box[g][0] - box[g][1] * 1.5);
      }
    });
    for (let i = N; i < N + B; i++) {
      right = Math.max(right, X[i]); bottom = Math.max(bottom, Y[i]);
      if (X[i] < 0 || Y[i] < -60) touching += 500;
    }
    return crossings * CROSSING + Math.max(0, crossings - MOST * links.length) * TOO_MANY + over * OVER + touching * TOUCHING
      + order * ORDER + ragged * RAGGED + (Math.max(right, WIDE * bottom) + 0.1 * (right + bottom)) * SIZE + length * LENGTH + steep * STEEP;
  }

  const oldX = X.slice(), oldY = Y.slice(), newX = X.slice(), newY = Y.slice(), bestX = X.slice(), bestY = Y.slice();
  const jump = (heat) => Math.round(((random() - 0.5) * (random() < 0.25 ? 3000 : 80 + heat * 12)) / GRID) * GRID;
  const fixed = members[0].length;

  function change(heat) {
    const kind = random();
    if (B && kind < 0.15) {
      const i = N + below(B);
      X[i] += jump(heat); Y[i] += jump(heat);
    } else if (kind < 0.3) {
      const dx = jump(heat), dy = jump(heat);
      for (const i of members[1 + below(groups.length - 1)] ?? []) { X[i] += dx; Y[i] += dy; }
    } else if (kind < 0.36 && groups.length > 2) {
      const g = 1 + below(groups.length - 1), k = 1 + below(groups.length - 1);
      const dx = box[k][0] - box[g][0], dy = box[k][1] - box[g][1];
      if (g !== k) for (const [list, sign] of [[members[g], 1], [members[k], -1]]) for (const i of list) { X[i] += sign * dx; Y[i] += sign * dy; }
    } else {
      const i = fixed + below(N - fixed), list = members[groupOf[i]], j = list[below(list.length)];
      if (kind < 0.5) [X[i], X[j], Y[i], Y[j]] = [X[j], X[i], Y[j], Y[i]];
      else if (kind < 0.58) X[i] = X[j];
      else if (kind < 0.66) Y[i] = Y[j];
      else if (kind < 0.72) { X[i] = X[j]; Y[i] = random() < 0.5 ? Y[j] + h[j] + TITLE + GAP_Y : Y[j] - h[i] - TITLE - GAP_Y; }
      else if (kind < 0.86) { X[i] += random() < 0.5 ? 0 : jump(heat); Y[i] += jump(heat); }
      else { X[i] += jump(heat); Y[i] += jump(heat); }
    }
  }

  near.fill(1); moved.fill(1);
  for (let p = 0; p < P; p++) lay(p);
  [crossings, over] = around();
  let now = judge(), best = Infinity;
  for (let step = 0; step < steps; step++) {
    const heat = hot * Math.pow(COLD / hot, step / steps);
    oldX.set(X); oldY.set(Y);
    change(heat);
    near.fill(0);
    for (let i = 0; i < N + B; i++) {
      moved[i] = X[i] !== oldX[i] || Y[i] !== oldY[i] ? 1 : 0;
      if (moved[i]) for (const p of ofPoint[i]) near[p] = 1;
    }
    newX.set(X); newY.set(Y);
    X.set(oldX); Y.set(oldY);
    const before = around();
    X.set(newX); Y.set(newY);
    for (let p = 0; p < P; p++) if (near[p]) lay(p);
    const after = around(), crossedOld = crossings, overOld = over;
    crossings += after[0] - before[0]; over += after[1] - before[1];
    const then = judge();
    if (then < now || random() < Math.exp((now - then) / heat)) {
      now = then;
      if (now < best && touching === 0) { best = now; bestX.set(X); bestY.set(Y); }
    } else {
      X.set(oldX); Y.set(oldY);
      crossings = crossedOld; over = overOld;
      for (let p = 0; p < P; p++) if (near[p]) lay(p);
    }
  }
  if (best < Infinity) { X.set(bestX); Y.set(bestY); }
  near.fill(1); moved.fill(1);
  for (let p = 0; p < P; p++) lay(p);
  [crossings, over] = around();
  const cost = judge();
  return {
    nodes: Object.fromEntries(ids.map((id, i) => [id, [X[i], Math.round(Y[i])]])),
    groups: box, bends: bends.map((_, i) => [X[N + i], Y[N + i]]), cost, crossings, over, touching,
  };
}
