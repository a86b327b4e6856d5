import sys; sys.path.insert(0,"tests/autointerp"); sys.path.insert(0,"tests")
import numpy as np
from dataclasses import replace
from test_whole_data import rare, whole_r, EXPLANATIONS
from vlm_neurons.autointerp.sampling import drawn
from vlm_neurons.autointerp.simulators import ConceptSimulator
from vlm_neurons.autointerp.scorers import measures, pieces_of
from vlm_neurons.stats import auroc
for share,n in ((.2,600),(.05,1000),(.02,1500),(.01,1500)):
    out={k:[] for k in EXPLANATIONS}; inside=[]
    for d in range(8):
        e=rare(share,n,np.random.default_rng([7,d]))
        for k,t in EXPLANATIONS.items():
            x=drawn({"rare":t},{"rare":e},None)["rare"]; test=x.split("test")
            ps=pieces_of(x,test,ConceptSimulator().simulate(t,test,"text"),"text")
            w=whole_r(e,t); lo,hi=measures.interval(ps,np.random.default_rng(0)); inside.append(lo<=w<=hi)
            out[k].append((measures.weighted(ps),measures.pooled([p for p in ps if not p.extra]),w))
    A={k:np.array(v) for k,v in out.items()}
    f=lambda k,c: auroc(np.r_[A["true"][:,c],A[k][:,c]],np.arange(16)<8)
    print(share,{k:(v.mean(0).round(3).tolist(),v[:,0].std().round(3)) for k,v in A.items()},"AUROC broad new/old",f("broad",0),f("broad",1),"half",f("half",0),f("half",1),"cover",np.mean(inside),flush=True)
